"use strict";
// The first page: the list of groups and the list of errors.

const WORST_SHOWN = 5;
const facts = document.getElementById("facts").dataset;
const listOf = (kind, total) => ({
  total: Number(total),
  chunkRows: Number(facts.rows),
  key: chunk => `${kind}-${String(chunk).padStart(5, "0")}`,
});

// The worst images of a group, read when they are about to be seen.
const worstOfGroup = new IntersectionObserver(entries => {
  for (const { target } of entries.filter(entry => entry.isIntersecting)) {
    worstOfGroup.unobserve(target);
    attempt(async () => {
      const group = await load(`group-${target.dataset.number}/group`);
      const ranks = Array.from({ length: Math.min(WORST_SHOWN, group.images) }, (_, i) => i + 1);
      const rows = await Promise.all(ranks.map(rank => imageRow(group, rank)));
      target.replaceChildren(...rows.map(row => make("a", { href: imageAddress(group, row.rank) }, thumbnail(group, row, 44))));
    });
  }
}, { rootMargin: "200px" });

const groupTable = new Table(document.getElementById("groups"), {
  source: listOf("groups", facts.groups),
  text: row => row.name,
  columns: [
    { name: "name", label: "Group", value: row => row.name, cell: row => make("a", { href: `group-${row.number}.html` }, make("bdi", { text: row.name })) },
    { name: "worst", label: "Most anomalous images", cell: row => {
      const place = make("div", { class: "strip", "data-number": row.number });
      worstOfGroup.observe(place);
      return place;
    } },
    { name: "images", label: "Images", number: true, value: row => row.images, cell: row => whole(row.images) },
    { name: "highest", label: "Highest score", number: true, value: row => row.highest, cell: row => fixed(row.highest) },
    { name: "threshold", label: "Threshold", number: true, value: row => row.threshold, cell: row => fixed(row.threshold) },
    { name: "held", label: "Held", number: true, value: row => row.held, cell: row => whole(row.held) },
    ...(facts.auroc === "1" ? [{ name: "auroc", label: "Image AUROC", number: true, value: row => row.auroc ?? -1, cell: row => (row.auroc === null ? "–" : fixed(row.auroc, 3)) }] : []),
  ],
});
groupTable.root.dataset.main = "";
groupTable.show();

if (facts.errors !== "0") {
  const table = new Table(document.getElementById("error-list"), {
    source: listOf("errors", facts.errors),
    text: row => `${row.uri}\n${row.group}\n${row.error} ${row.message}`,
    columns: [
      { name: "number", label: "No.", number: true, value: row => row.rank },
      { name: "uri", label: "Image", value: row => row.uri, cell: row => make("bdi", { text: row.uri }) },
      { name: "group", label: "Group", value: row => row.group, cell: row => make("bdi", { text: row.group }) },
      { name: "stage", label: "Stage", value: row => row.stage },
      { name: "message", label: "What happened", value: row => `${row.error} ${row.message}`, cell: row => make("span", {}, make("b", { text: row.error }), " ", make("bdi", { text: row.message })) },
    ],
  });
  table.show();
}
