"use strict";
// The page of a group: threshold, worst images, table of all. What is chosen stands in the address, so that coming back
// from an image, or sending the address to someone, shows the same.

const number = document.getElementById("group").dataset.number;

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const threshold = given.has("threshold") ? Number(given.get("threshold")) : NaN;
  return {
    sort: given.get("sort"),
    descending: given.has("descending"),
    page: Number(given.get("page") ?? 1) - 1,
    filter: given.get("filter") ?? "",
    label: given.get("label") ?? "",
    mark: given.get("mark") ?? "",
    held: given.has("held"),
    threshold: Number.isFinite(threshold) ? threshold : null,
  };
}

function writeAddress(table, threshold, controls) {
  const chosen = new URLSearchParams();
  const { sort, descending, page, filter } = table.state;
  if (sort !== table.natural || descending) chosen.set("sort", sort);
  if (descending) chosen.set("descending", "");
  if (page > 0) chosen.set("page", page + 1);
  if (filter) chosen.set("filter", filter);
  if (controls.label.value) chosen.set("label", controls.label.value);
  if (controls.mark.value) chosen.set("mark", controls.mark.value);
  if (controls.held.checked) chosen.set("held", "");
  if (threshold.value !== threshold.group.threshold) chosen.set("threshold", threshold.value);
  const text = chosen.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

function card(group, row) {
  const label = row.label ? [make("bdi", { class: "tag", text: row.label })] : [];
  const frame = make("div", { class: "frame", "data-rank": row.rank }, picture(group, row), ...label);
  const caption = make("div", { class: "caption" },
    make("p", { class: "first" }, make("span", { class: "rank", text: `#${row.rank}` }), make("span", { class: "number", text: fixed(row.score) })),
    make("bdi", { class: "name", text: row.name, title: row.prefix + row.name }));
  const description = `Rank ${row.rank}, score ${fixed(row.score)}, ${row.name}`;
  const link = make("a", { href: imageAddress(group, row.rank), "aria-label": description }, frame, caption);
  return make("li", {}, link, markButtons(imageOf(group, row)));
}

// Heat maps of the worst images are read and painted when they are about to be seen.
async function showWorst(group, colours) {
  const list = document.getElementById("worst");
  if (!group.pictures) {
    document.getElementById("worst-section").hidden = true;
    return;
  }
  paintScale(group, colours);
  const rows = await Promise.all(Array.from({ length: group.pictures }, (_, i) => imageRow(group, i + 1)));
  const shapes = rows.filter(row => row.size[0] > 0).map(row => row.size[0] / row.size[1]).sort((a, b) => a - b);
  const middle = shapes[shapes.length >> 1] ?? 1;
  list.classList.add(middle < 0.85 ? "portrait" : middle > 1.18 ? "landscape" : "square");
  const seen = new IntersectionObserver(entries => {
    for (const { target } of entries.filter(entry => entry.isIntersecting)) {
      seen.unobserve(target);
      const row = rows[target.dataset.rank - 1];
      attempt(async () => target.append(heatCanvas(group, row, (await imageDetail(group, row)).map, colours)));
    }
  }, { rootMargin: "300px" });
  list.replaceChildren(...rows.map(row => card(group, row)));
  for (const control of list.querySelectorAll(".marking")) paint(control);
  for (const frame of list.querySelectorAll(".frame")) {
    if (rows[frame.dataset.rank - 1].size[0] > 0) seen.observe(frame);
  }
}

// Whether an image has the label and the verdict that are asked for; null where none is.
function matcher(controls) {
  const [label, mark] = [controls.label.value, controls.mark.value];
  if (!label && !mark) return null;
  return row => (!label || row.label === label) && (!mark || (marks.of(row.id)?.verdict ?? "none") === mark);
}

function imageTable(group, start, threshold, controls) {
  const columns = [
    { name: "rank", label: "Rank", number: true, value: row => row.rank, cell: row => whole(row.rank) },
    { name: "picture", label: "Picture", cell: row => thumbnail(group, row, 40) },
    { name: "name", label: "Image", value: row => row.prefix + row.name, cell: row => make("a", { href: imageAddress(group, row.rank), title: row.prefix + row.name }, make("bdi", { text: row.name })) },
    { name: "score", label: "Score", number: true, value: row => row.score, cell: row => fixed(row.score) },
    { name: "raw", label: "Raw score", number: true, value: row => row.raw, cell: row => fixed(row.raw) },
    { name: "percentile", label: "Percentile", number: true, value: row => row.percentile, cell: row => fixed(row.percentile, 2) },
    { name: "held", label: "Held", cell: row => (row.rank <= threshold.held ? make("span", { class: "tag held", text: "held" }) : null) },
    ...(group.labels.length ? [{ name: "label", label: "Label", value: row => row.label, cell: row => (row.label ? make("bdi", { class: "tag", text: row.label }) : null) }] : []),
    { name: "mark", label: "Verdict", cell: row => markButtons(imageOf(group, row)) },
  ];
  return new Table(document.getElementById("images"), {
    source: { total: group.images, chunkRows: group.chunkRows, key: chunk => `group-${group.number}/rows-${String(chunk).padStart(5, "0")}` },
    columns,
    text: row => row.prefix + row.name,
    limit: () => (controls.held.checked ? threshold.held : group.images),
    matches: () => matcher(controls),
    state: start,
    changed: table => {
      for (const control of table.body.querySelectorAll(".marking")) paint(control);
      writeAddress(table, threshold, controls);
    },
  });
}

attempt(async () => {
  const [group, run, scores] = await Promise.all([load(`group-${number}/group`), load("run"), load(`group-${number}/scores`)]);
  marks.addStored(group.number, await load(`group-${number}/verdicts`));
  const start = readAddress();
  const controls = { label: document.getElementById("label"), mark: document.getElementById("mark-choice"), held: document.getElementById("only-held") };
  for (const name of group.labels) controls.label.append(make("option", { value: name, text: name }));
  document.getElementById("label-choice").hidden = !group.labels.length;
  controls.label.value = group.labels.includes(start.label) ? start.label : "";
  controls.mark.value = ["none", ...VERDICTS].includes(start.mark) ? start.mark : "";
  controls.held.checked = start.held;
  let table = null;
  const moved = () => table && (controls.held.checked ? table.restart() : table.show());
  const labels = scores.label === null ? null : bytes(scores.label);
  const threshold = new Threshold(group, floats(scores.score), labels, start.threshold ?? group.threshold, moved);
  table = imageTable(group, start, threshold, controls);
  table.root.dataset.main = "";
  for (const control of Object.values(controls)) control.addEventListener("change", () => table.restart());
  await Promise.all([table.show(), showWorst(group, bytes(run.colours))]);
});
