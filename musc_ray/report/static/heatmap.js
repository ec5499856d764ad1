"use strict";
// Heat maps: a patch map of bytes (255 is the upper end of the group's scale), upsampled as the scores are and coloured.

// Chosen by eye on real tiles: 1 tints the normal regions, 2 hides the weaker defects.
const ALPHA_EXPONENT = 1.5;

// Bilinear with aligned corners: the corners of the map fall on the corner pixels. Values 0 to 255, row by row.
// part: [left, top, widest, highest] if only a part of the map is made: its first pixel, and the last one of the whole.
function upsample(map, [rows, columns], width, height, [left, top, widest, highest] = [0, 0, width - 1, height - 1]) {
  const across = interpolation(columns, width, left, widest);
  const down = interpolation(rows, height, top, highest);
  const result = new Float64Array(width * height);
  for (let y = 0; y < height; y++) {
    const [above, under, below] = [down.left[y] * columns, down.right[y] * columns, down.share[y]];
    for (let x = 0; x < width; x++) {
      const [before, after, beside] = [across.left[x], across.right[x], across.share[x]];
      const upper = map[above + before] * (1 - beside) + map[above + after] * beside;
      const lower = map[under + before] * (1 - beside) + map[under + after] * beside;
      result[y * width + x] = upper * (1 - below) + lower * below;
    }
  }
  return result;
}

// Where each of `length` pixels from `first` on lies among `points` points, the last of which is on the pixel `last`:
// between `left` and `right`, by `share` towards the right.
function interpolation(points, length, first, last) {
  const left = new Int32Array(length);
  const right = new Int32Array(length);
  const share = new Float64Array(length);
  for (let i = 0; i < length; i++) {
    const position = last > 0 ? Math.min(((first + i) * (points - 1)) / last, points - 1) : 0;
    left[i] = Math.min(Math.floor(position), Math.max(points - 2, 0));
    right[i] = Math.min(left[i] + 1, points - 1);
    share[i] = position - left[i];
  }
  return { left, right, share };
}

// Paints a map on a canvas of the given size: nothing at the lower end of the scale, the brightest at the upper one.
// `colours` holds red, green, blue of 256 steps; `part` as in `upsample`.
function paintHeat(canvas, map, grid, [low, high], width, height, colours, part) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  upsample(map, grid, width, height, part).forEach((value, i) => {
    const share = high > low ? Math.min(Math.max(((value / 255) * high - low) / (high - low), 0), 1) : 0;
    const step = 3 * Math.round(255 * share);
    image.data.set([colours[step], colours[step + 1], colours[step + 2]], 4 * i);
    image.data[4 * i + 3] = Math.round(255 * share ** ALPHA_EXPONENT);
  });
  context.putImageData(image, 0, 0);
}

const HEAT_SIDE = 320; // pixels of a heat map's longer side: patches are far larger than that on any screen

// A heat map in the shape of an image, to be laid over its picture.
function heatCanvas(group, row, map, colours) {
  const [width, height] = row.size[0] > 0 ? row.size : [...group.grid].reverse();
  const scale = HEAT_SIDE / Math.max(width, height);
  const canvas = make("canvas", { class: "heat", "aria-hidden": "true" });
  const size = [width, height].map(side => Math.max(1, Math.round(side * scale)));
  paintHeat(canvas, map, group.grid, group.scale, ...size, colours);
  return canvas;
}

// The heat map of the part of an image that the report shows at its own pixels.
function zoomCanvas(group, row, map, colours) {
  const [left, top, width, height] = row.zoom;
  const scale = Math.min(1, HEAT_SIDE / Math.max(width, height));
  const canvas = make("canvas", { class: "heat", "aria-hidden": "true" });
  const size = [width, height].map(side => Math.max(1, Math.round(side * scale)));
  const part = [left, top, row.pixels[0] - 1, row.pixels[1] - 1].map(pixel => pixel * scale);
  paintHeat(canvas, map, group.grid, group.scale, ...size, colours, part);
  return canvas;
}

// The legend: the scale of all heat maps of a group.
function paintScale(group, colours) {
  const canvas = document.getElementById("scale");
  paintHeat(canvas, Uint8Array.from({ length: 256 }, (_, i) => i), [1, 256], [0, 1], 256, 1, colours);
  document.getElementById("scale-low").textContent = fixed(group.scale[0], 3);
  document.getElementById("scale-high").textContent = fixed(group.scale[1], 3);
}
