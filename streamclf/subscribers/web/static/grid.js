// Find the grid in which pictures of 16:9 become largest.

// Return the number of columns, and the size of a picture in CSS pixels, for `count` tiles in a box. `caption` is the
// height of the text under each picture. Tiles get no narrower than `smallest`; then the grid `scrolls`.
export function bestGrid(count, boxWidth, boxHeight, { gap, caption, smallest, aspect = 16 / 9 }) {
  let best = null;
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const tileWidth = (boxWidth - gap * (columns - 1)) / columns;
    const tileHeight = (boxHeight - gap * (rows - 1)) / rows;
    const width = Math.min(tileWidth, (tileHeight - caption) * aspect);
    if (width > 0 && (best === null || width > best.width)) best = { columns, width, tileWidth, tileHeight };
  }
  const least = Math.min(smallest, boxWidth);
  if (best !== null && best.width >= least) {
    const height = Math.floor(Math.min(best.tileHeight - caption, (best.tileWidth / aspect) * 1.3));
    return { columns: best.columns, width: Math.floor(best.tileWidth), height, scrolls: false };
  }
  const columns = Math.max(1, Math.min(count, Math.floor((boxWidth + gap) / (least + gap))));
  const width = Math.floor((boxWidth - gap * (columns - 1)) / columns);
  return { columns, width, height: Math.floor(width / aspect), scrolls: true };
}
