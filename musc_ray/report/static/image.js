"use strict";
// The page of an image; which one stands in the address: image.html#<group>/<rank>.

const element = id => document.getElementById(id);

function fact(name, content) {
  return make("tr", {}, make("th", { scope: "row", text: name }), make("td", {}, content));
}

// A link where a browser may follow it: never to a script, and to a local file only from a local page.
function location_(uri) {
  const followable = /^https?:\/\//i.test(uri) || (location.protocol === "file:" && /^(file:\/\/)?\/[^#]*$/.test(uri));
  const text = make("bdi", { text: uri });
  if (!followable) return text;
  return make("a", { href: uri.startsWith("/") ? `file://${uri.split("/").map(encodeURIComponent).join("/")}` : uri, rel: "noreferrer" }, text);
}

// Where the heat map is largest, in pixels of the original.
function peakText(row) {
  const [[x, y], [width, height]] = [row.peak, row.pixels];
  return `x ${whole(x)}, y ${whole(y)} of ${width} \u00d7 ${height} pixels`;
}

function showFacts(group, row, detail) {
  const held = row.score >= group.threshold;
  const source = group.thresholdIsSet ? "the run's" : "suggested";
  element("facts").replaceChildren(
    fact("Score", `${fixed(row.score)} (rank ${whole(row.rank)} of ${whole(group.images)}, percentile ${fixed(row.percentile, 2)})`),
    fact("Raw score", fixed(row.raw)),
    fact("Threshold", `${fixed(group.threshold)} (${source}): ${held ? "held" : "not held"}`),
    ...(row.peak ? [fact("Peak", peakText(row))] : []),
    ...(row.label ? [fact("Label", make("bdi", { class: "tag", text: row.label }))] : []),
    fact("Location", location_(row.prefix + row.name)),
    fact("Image id", make("code", { text: detail.id })),
  );
}

// The share of each of the images (this one first) in the score: for every k the similarities of the k most similar
// ones, divided by their sum; the mean over k_list (MuSc, eq. 7 and 8).
function weights(similarities, kList) {
  const result = similarities.map(() => 0);
  for (const k of kList) {
    const near = similarities.slice(0, k);
    const sum = near.reduce((a, b) => a + b, 0);
    near.forEach((similarity, i) => { result[i] += similarity / sum / kList.length; });
  }
  return result;
}

// What the rescoring made of an image's raw score, in a sentence.
function effectOf(run, row, scaledRaw, similar) {
  if (run.rescoring === "none") return "These images look most like it as a whole. They do not change its score, which is its raw score (rescoring none).";
  const move = row.score - scaledRaw;
  const direction = Math.abs(move) < 5e-5 ? "leave it where it was" : `${move > 0 ? "raise" : "lower"} it to ${fixed(row.score)}`;
  const byItself = `By itself this image would score ${fixed(scaledRaw)}`;
  if (run.rescoring === "rscon") return `${byItself}; the images whose most anomalous patches look most like its own ${direction} (RsCon, k_list ${run.kList.join(", ")}). Those below look most like it as a whole and do not change its score.`;
  return similar ? `${byItself}; the images that look most like it ${direction}.` : `The settings compare no image with similar ones (k_list ${run.kList.join(", ")}).`;
}

async function showSimilar(group, run, row, detail) {
  const table = document.querySelector(".similar");
  table.hidden = element("how").hidden = true;
  if (detail.similar === null) {
    element("effect").textContent = "Not shown: the most similar images were not recorded, or are earlier ones that got no scores in this run.";
    return;
  }
  const [low, high] = group.rawRange;
  const scaled = raw => (high > low ? (raw - low) / (high - low) : 0);
  const [ranks, similarities] = detail.similar;
  const rows = [row, ...(await Promise.all(ranks.map(rank => imageRow(group, rank))))];
  const near = [1, ...similarities];
  const share = run.rescoring === "rscin" ? weights(near, run.kList) : null; // of other rescorings the table has no part
  element("effect").textContent = effectOf(run, row, scaled(row.raw), ranks.length);
  element("similar").replaceChildren(...rows.map((other, i) => make("tr", { class: i ? null : "own" },
    make("td", { class: "picture" }, thumbnail(group, other, 72)),
    make("td", {}, i ? make("a", { href: imageAddress(group, other.rank) }, make("bdi", { text: `#${whole(other.rank)} ${other.name}` })) : "this image"),
    make("td", { class: "number", text: fixed(near[i]) }),
    make("td", { class: "number", text: fixed(other.raw) }),
    ...(share ? [make("td", { class: "number", text: fixed(scaled(other.raw)) }), make("td", { class: "number", text: `${(100 * share[i]).toFixed(1)} %` })] : []),
  )));
  table.hidden = false;
  if (share === null) return;
  const total = rows.reduce((sum, other, i) => sum + share[i] * scaled(other.raw), 0);
  element("how").textContent = `Score = sum of weight × scaled raw score = ${fixed(total)}. Scaled: 0 is the lowest raw score of the group (${fixed(low)}), 1 the highest (${fixed(high)}). Weights: similarity of class tokens, mean over the ${run.kList.join(", ")} most similar images, this one included (RsCIN).`;
  element("how").hidden = false;
}

function showPictures(group, row, detail, colours) {
  element("original").replaceChildren(picture(group, row));
  element("with-heat").replaceChildren(picture(group, row), heatCanvas(group, row, detail.map, colours));
  const [width, height] = row.size[0] > 0 ? row.size : [...group.grid].reverse();
  for (const view of [element("original"), element("with-heat")]) {
    view.style.setProperty("--ratio", width / height);
  }
}

// The part around the peak, at the original's pixels, and its frame in the whole image.
function showZoom(group, row, detail, colours) {
  element("zoom").hidden = !row.zoom;
  if (!row.zoom) return;
  const [left, top, width, height] = row.zoom;
  const number = String(row.rank).padStart(5, "0");
  const zoomed = () => make("img", { src: `data/group-${group.number}/zoom-${number}.jpg`, alt: `Part of the image of rank ${row.rank} around its peak` });
  element("zoom-original").replaceChildren(zoomed());
  element("zoom-heat").replaceChildren(zoomed(), zoomCanvas(group, row, detail.map, colours));
  for (const view of [element("zoom-original"), element("zoom-heat")]) {
    view.style.setProperty("--ratio", width / height);
    view.style.setProperty("--pixels", `${width}px`);
  }
  element("zoom-place").textContent = `Peak at ${peakText(row)}. Framed above: x ${whole(left)} to ${whole(left + width - 1)}, y ${whole(top)} to ${whole(top + height - 1)}.`;
  for (const view of [element("original"), element("with-heat")]) {
    const frame = make("span", { class: "zoom-frame", "aria-hidden": "true" });
    const share = (pixels, of) => `${(100 * pixels) / of}%`;
    Object.assign(frame.style, { left: share(left, row.pixels[0]), width: share(width, row.pixels[0]), top: share(top, row.pixels[1]), height: share(height, row.pixels[1]) });
    view.append(frame);
  }
}

// The buttons and the note of the image that is shown; keys mark it, too.
function showMarking(group, row) {
  shown.image = imageOf(group, row);
  element("mark-buttons").replaceChildren(markButtons(shown.image, false));
  element("mark-note").value = marks.of(row.id)?.note ?? "";
  showMarks(null);
}

function turnTo(link, group, rank) {
  if (rank >= 1 && rank <= group.images) link.href = imageAddress(group, rank);
  else link.removeAttribute("href");
}

async function show() {
  const [, number, rank] = location.hash.match(/^#(\d+)\/(\d+)$/) ?? [];
  if (!number) throw new Error("The address of an image ends in #group/rank: open it from its group's page.");
  const wanted = location.hash;
  const [group, run] = await Promise.all([load(`group-${number}/group`), load("run")]);
  if (rank < 1 || rank > group.images) throw new Error(`The group has ${plural(group.images, "image")}, there is none of rank ${rank}.`);
  marks.addStored(group.number, await load(`group-${number}/verdicts`));
  const row = await imageRow(group, Number(rank));
  const detail = await imageDetail(group, row);
  if (location.hash !== wanted) return; // turned on meanwhile
  document.title = `#${row.rank} ${row.name} - ${group.name}`;
  element("to-group").replaceChildren(make("bdi", { text: group.name }));
  element("to-group").href = `group-${group.number}.html`;
  element("place").textContent = `#${whole(row.rank)}`;
  element("rank").textContent = `#${whole(row.rank)}`;
  element("name").textContent = row.name;
  turnTo(element("previous"), group, row.rank - 1);
  turnTo(element("next"), group, row.rank + 1);
  const colours = bytes(run.colours);
  paintScale(group, colours);
  showPictures(group, row, detail, colours);
  showZoom(group, row, detail, colours);
  showFacts(group, row, detail);
  showMarking(group, row);
  await showSimilar(group, run, row, detail);
}

// A note belongs to a verdict: without one it is unsure.
element("mark-note").addEventListener("change", () => {
  const image = shown.image;
  if (image) marks.set(image, marks.of(image.id)?.verdict ?? "unsure", element("mark-note").value.trim(), markField("who").value.trim());
});
shown.marked = () => {
  if (element("mark-turn").checked && element("next").href) location.href = element("next").href;
};

document.addEventListener("keydown", event => {
  const link = { ArrowLeft: element("previous"), ArrowRight: element("next") }[event.key];
  if (link?.href && !isTyping(event)) location.href = link.href;
});
window.addEventListener("hashchange", () => attempt(show));
attempt(show);
