"use strict";
// Data files and how they are shown.
//
// A page opened from a folder may not fetch(), so data come as scripts: load("a/b") adds data/a/b.js, which calls
// receive("a/b", content). All text reaches the page as text nodes; nothing here parses markup.

const requests = new Map();

function load(key) {
  if (!requests.has(key)) {
    const request = {};
    request.promise = new Promise((resolve, reject) => Object.assign(request, { resolve, reject }));
    requests.set(key, request);
    const script = document.createElement("script");
    script.src = `data/${key}.js`;
    script.onload = () => script.remove();
    script.onerror = () => {
      requests.delete(key); // to be tried again
      request.reject(new Error(`data/${key}.js cannot be read: is the report's folder whole?`));
    };
    document.head.append(script);
  }
  return requests.get(key).promise;
}

function receive(key, content) {
  requests.get(key)?.resolve(content);
}

// Runs a page's work and says on the page what goes wrong.
async function attempt(work) {
  try {
    await work();
  } catch (error) {
    const notice = document.getElementById("trouble");
    notice.textContent = error.message;
    notice.hidden = false;
  }
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), character => character.charCodeAt(0));
}

function floats(base64) {
  const view = new DataView(bytes(base64).buffer);
  return Float32Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

// An element with attributes ("text" is its text) and children.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const whole = number => number.toLocaleString("en-US");
const fixed = (number, digits = 4) => number.toFixed(digits);
const plural = (number, one) => `${whole(number)} ${one}${number === 1 ? "" : "s"}`;

// The row of the image of a rank (from 1): { rank, prefix, name, score, raw, percentile, detail, label, size }.
async function imageRow(group, rank) {
  const chunk = Math.floor((rank - 1) / group.chunkRows);
  const columns = await load(`group-${group.number}/rows-${String(chunk).padStart(5, "0")}`);
  return rowOf(columns, (rank - 1) % group.chunkRows, rank);
}

function rowOf(columns, at, rank) {
  const { prefix, ...lists } = columns;
  return { rank, prefix, ...Object.fromEntries(Object.entries(lists).map(([name, list]) => [name, list[at]])) };
}

// Patch map (bytes) and similar images of an image: { id, map, similar: [ranks, similarities] or null }.
async function imageDetail(group, row) {
  const found = await load(`group-${group.number}/detail-${String(row.detail).padStart(5, "0")}`);
  const at = found.rank.indexOf(row.rank);
  return { id: found.id[at], map: bytes(found.map[at]), similar: found.similar && found.similar[at] };
}

const imageAddress = (group, rank) => `image.html#${group.number}/${rank}`;

// An element that shows an image in a box of so many pixels: its part of a sheet of thumbnails, or why there is none.
function thumbnail(group, row, box) {
  const [width, height] = row.size;
  if (width <= 0) {
    return make("span", { class: "no-picture", title: pictureMissing(row), text: width < 0 ? "unreadable" : "no picture" });
  }
  const { sheet, x, y } = placeInSheet(group, row);
  const scale = box / Math.max(width, height);
  const element = make("span", { class: "thumbnail", role: "img", "aria-label": `Image of rank ${row.rank}` });
  element.style.width = `${width * scale}px`;
  element.style.height = `${height * scale}px`;
  element.style.backgroundSize = `${group.sheet.columns * group.sheet.side * scale}px auto`;
  element.style.backgroundPosition = `${-x * scale}px ${-y * scale}px`;
  element.style.backgroundImage = `url("${sheet}")`;
  return element;
}

function pictureMissing(row) {
  return row.size[0] < 0
    ? "This picture could not be read when the report was written."
    : "The report has no picture of this image: see the setting report_thumbnails.";
}

// The largest picture of an image that the report has, to be sized by its parent.
function picture(group, row) {
  if (row.size[0] <= 0) return make("p", { class: "quiet", text: pictureMissing(row) });
  const alt = `Image of rank ${row.rank}`;
  if (row.rank <= group.pictures) {
    const number = String(row.rank).padStart(5, "0");
    return make("img", { src: `data/group-${group.number}/picture-${number}.jpg`, alt, loading: "lazy" });
  }
  const { sheet, x, y } = placeInSheet(group, row);
  const canvas = make("canvas", { role: "img", "aria-label": alt, width: row.size[0], height: row.size[1] });
  const source = new Image();
  source.onload = () => canvas.getContext("2d").drawImage(source, -x, -y);
  source.src = sheet;
  return canvas;
}

function placeInSheet(group, row) {
  const { images, columns, side } = group.sheet;
  const [number, place] = [Math.floor((row.rank - 1) / images), (row.rank - 1) % images];
  return {
    sheet: `data/group-${group.number}/sheet-${String(number).padStart(5, "0")}.jpg`,
    x: (place % columns) * side,
    y: Math.floor(place / columns) * side,
  };
}

// Keys that belong to a field must not turn pages.
const isTyping = event => event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey;
