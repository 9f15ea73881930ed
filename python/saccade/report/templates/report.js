const featuredOf = (list) => Math.max(0, list.findIndex((one) => one.label === data.featured));

// Where tiles are skipped.
function drawHeatmaps() {
  const { layers, skipped } = data.heatmaps[byId("heat-label").value];
  const branch = skipped[byId("heat-branch").value];
  const mean = (heads) => heads[0].map((_, step) => heads.reduce((sum, head) => sum + head[step], 0) / heads.length);
  heatmap(byId("heat-layers"), branch.map(mean), layers.map((_, i) => `layer ${i}`), "by layer");
  const names = layers.flatMap((_, i) => branch[i].map((_, head) => `layer ${i} head ${head}`));
  heatmap(byId("heat-heads"), branch.flat(), names, "by head");
}

function startHeatmaps() {
  fill(byId("heat-label"), data.heatmaps.map((map) => map.label), drawHeatmaps);
  fill(byId("heat-branch"), data.heatmaps[0].branches, drawHeatmaps);
  byId("heat-label").value = featuredOf(data.heatmaps);
}

// The tile masks: data.masks[i].kept holds the number of steps that computed each tile.
const MAX_COLUMNS = 12;

function bytesOf(history) {
  history.bytes ??= Uint8Array.from(atob(history.kept), (character) => character.charCodeAt(0));
  return history.bytes;
}

function maskCanvas(bytes, offset, rows, columns, step) {
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  canvas.style.aspectRatio = "1";
  const context = canvas.getContext("2d");
  for (const [name, isActive] of [["empty", false], ["accent", true]]) {
    context.fillStyle = colour(name);
    for (let tile = 0; tile < rows * columns; tile++) {
      if ((bytes[offset + tile] > step) === isActive) context.fillRect(tile % columns, Math.floor(tile / columns), 1, 1);
    }
  }
  return canvas;
}

function label(text, className = "") {
  const span = document.createElement("span");
  span.textContent = text;
  span.className = className;
  return span;
}

function drawMasks() {
  const history = data.masks[byId("mask-label").value];
  const [, layers, heads, rows, columns] = history.shape;
  const bytes = bytesOf(history);
  const count = Math.min(MAX_COLUMNS, history.steps);
  const steps = Array.from({ length: count }, (_, i) => Math.round((i * (history.steps - 1)) / Math.max(1, count - 1)));
  const first = (+byId("mask-branch").value * layers + +byId("mask-layer").value) * heads;
  const cells = [label(""), ...steps.map((step) => label(`${step + 1}`, "step"))];
  history.heads.forEach((head, i) => {
    cells.push(label(`head ${head}`));
    for (const step of steps) cells.push(maskCanvas(bytes, (first + i) * rows * columns, rows, columns, step));
  });
  byId("masks").style.gridTemplateColumns = `max-content repeat(${count}, minmax(0, 150px))`;
  byId("masks").replaceChildren(...cells);
}

function startMasks() {
  fill(byId("mask-label"), data.masks.map((history) => history.label), drawMasks);
  fill(byId("mask-branch"), data.masks[0].branches, drawMasks);
  fill(byId("mask-layer"), data.masks[0].layers.map((layer) => `${layer}`), drawMasks);
  byId("mask-label").value = featuredOf(data.masks);
  byId("mask-layer").value = data.masks[0].layers.length >> 1;
}

// The clips play in step.
function startPlayer() {
  const clips = [...document.querySelectorAll(".clip")];
  const slider = byId("frame");
  const count = Math.max(...clips.map((clip) => +clip.dataset.frames));
  let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  slider.max = count - 1;

  function show(frame) {
    slider.value = frame;
    byId("frame-number").textContent = `frame ${frame + 1} of ${count}`;
    for (const clip of clips) {
      const frames = +clip.dataset.frames;
      clip.style.backgroundPositionX = frames > 1 ? `${(100 * (frame % frames)) / (frames - 1)}%` : "0";
    }
  }
  function play(on) {
    playing = on;
    byId("play").textContent = playing ? "pause" : "play";
  }
  byId("play").onclick = () => play(!playing);
  slider.oninput = () => { play(false); show(+slider.value); };
  setInterval(() => { if (playing) show((+slider.value + 1) % count); }, 125);
  play(playing);
  show(0);
}

function drawAll() {
  drawFigures();
  drawHeatmaps();
  if (data.masks.length) drawMasks();
}

startHeatmaps();
if (data.masks.length) startMasks();
if (document.querySelector(".clip")) startPlayer();
drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
