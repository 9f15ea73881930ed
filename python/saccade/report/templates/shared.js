"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

// Figures take the colours of the page.
function themed(layout) {
  const result = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("soft"), family: FONT, size: 13 } };
  for (const axis of ["xaxis", "yaxis"]) {
    result[axis] = { ...layout[axis], gridcolor: colour("line"), linecolor: colour("line") };
  }
  return result;
}

function draw(element, traces, layout) {
  Plotly.react(element, traces, themed(layout), { responsive: true, displayModeBar: false });
}

function drawFigures() {
  for (const element of document.querySelectorAll("[data-figure]")) {
    const figure = data.figures[element.dataset.figure];
    draw(element, figure.data, figure.layout);
  }
}

function fill(select, names, onChange) {
  select.replaceChildren(...names.map((name, i) => new Option(name, i)));
  select.onchange = onChange;
}

// Rows of numbers over the denoising steps; null where there is none.
function heatmap(element, rows, names, title, { top = 100, unit = " %", meaning = "skipped", first = 1 } = {}) {
  const steps = rows[0].map((_, step) => step + first);
  const scale = [[0, colour("heat-low")], [0.5, colour("heat-mid")], [1, colour("heat-high")]];
  const trace = { type: "heatmap", x: steps, y: names, z: rows, zmin: 0, zmax: top, colorscale: scale,
    xgap: 1, ygap: 1, colorbar: { thickness: 10, outlinewidth: 0, ticksuffix: unit, len: 1 },
    hoverongaps: false, hovertemplate: `%{y}, step %{x}: %{z:.3~g}${unit} ${meaning}<extra></extra>` };
  draw(element, [trace], { height: 420, margin: { l: 8, r: 8, t: 8, b: 46 },
    xaxis: { title: { text: `denoising step, ${title}` }, showgrid: false, zeroline: false, dtick: steps.length > 16 ? undefined : 1 },
    yaxis: { autorange: "reversed", showgrid: false, automargin: true, type: "category", ticklabelstandoff: 6 } });
}
