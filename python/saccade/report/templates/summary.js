// data.quantities[i]: by_layer [branch][layer][step], by_head [branch][layer][head][step] or null.
function drawQuantity() {
  const { by_layer, by_head, top, unit, meaning } = data.quantities[byId("quantity").value];
  const branch = +byId("branch").value;
  const layer = +byId("layer").value;
  const shown = { top, unit, meaning, first: 0 };
  heatmap(byId("layers"), by_layer[branch], data.layers, "by layer", shown);
  byId("heads").hidden = by_head === null;
  if (by_head === null) return;
  const rows = by_head[branch][layer];
  heatmap(byId("heads"), rows, rows.map((_, head) => `head ${head}`), `heads of ${data.layers[layer]}`, shown);
}

fill(byId("quantity"), data.quantities.map((quantity) => quantity.name), drawQuantity);
fill(byId("branch"), data.branches, drawQuantity);
fill(byId("layer"), data.layers, drawQuantity);
drawQuantity();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawQuantity);
