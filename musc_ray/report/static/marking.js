"use strict";
// How images are marked: buttons beside them, and keys for the one that is pointed at, focused, or shown on its own page.

const KEYS = { g: "good", d: "defective", u: "unsure" };
const LABELS = { good: "Good", defective: "Defective", unsure: "Unsure" };
const WHO = "musc-ray-who";
const HOLDERS = "#images tbody tr, #worst > li";

const panel = document.getElementById("marks");
const markField = name => document.getElementById(`mark-${name}`);
const ownGroup = () => shown.image?.group ?? (panel.dataset.group ? Number(panel.dataset.group) : null);

// What the page of an image sets: its image, which keys mark, and what follows.
const shown = { image: null, marked: () => {} };
const marks = new Marks(panel.dataset.run, ids => showMarks(ids));

// The image of a row as marks name it.
const imageOf = (group, row) => ({ id: row.id, group: group.number, rank: row.rank });

// Three buttons that mark an image. In a list the Tab key passes them: keys mark the image whose link has the focus.
function markButtons(image, inList = true) {
  const control = make("span", { class: "marking", role: "group", "aria-label": `Verdict on the image of rank ${image.rank}` });
  control.image = image;
  for (const verdict of VERDICTS) {
    const button = make("button", { type: "button", "data-verdict": verdict, tabindex: inList ? -1 : null, title: `${LABELS[verdict]} (${verdict[0]})`, text: LABELS[verdict] });
    button.addEventListener("click", () => mark(image, verdict));
    control.append(button);
  }
  paint(control);
  return control;
}

function paint(control) {
  const verdict = marks.of(control.image.id)?.verdict;
  for (const button of control.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.verdict === verdict));
  const holder = control.closest(HOLDERS);
  if (!holder) return;
  if (verdict) holder.dataset.mark = verdict;
  else delete holder.dataset.mark;
}

// Shows the marks of some images, or of all, on the page.
function showMarks(ids) {
  for (const control of document.querySelectorAll(".marking")) {
    if (ids === null || ids.includes(control.image.id)) paint(control);
  }
  const group = ownGroup();
  const counts = marks.counts(group); // the first page knows no stored ones
  markField("counts").textContent = (group === null ? "Marked here: " : "") + VERDICTS.map(verdict => `${whole(counts[verdict])} ${verdict}`).join(", ");
  markField("undo").disabled = !marks.steps.length;
  markField("download").disabled = !marks.local.size;
  markField("new").textContent = marks.local.size ? `${plural(marks.local.size, "new mark")} in this browser` : "No new marks in this browser";
  markField("trouble").hidden = !marks.trouble;
  markField("trouble").textContent = marks.trouble ?? "";
  showNote();
}

function showNote() {
  const note = markField("note");
  if (note && shown.image && document.activeElement !== note) note.value = marks.of(shown.image.id)?.note ?? "";
}

function mark(image, verdict) {
  const isShown = image.id === shown.image?.id;
  const note = isShown ? markField("note").value.trim() : (marks.of(image.id)?.note ?? "");
  marks.set(image, verdict, note, markField("who").value.trim());
  say(`#${whole(image.rank)}: ${verdict}`);
  if (isShown) shown.marked();
}

function undo() {
  const image = marks.undo();
  if (image) say(`#${whole(image.rank)} again: ${marks.of(image.id)?.verdict ?? "not marked"}`);
  if (image?.id === shown.image?.id && image) markField("note").value = marks.of(image.id)?.note ?? "";
}

function say(text) {
  markField("said").textContent = text;
}

// The image that keys mark: of a list the one under the pointer or with the focus, whichever was moved last.
const pointer = { x: null, y: null, moved: false };

function holderNow() {
  const element = pointer.moved ? document.elementFromPoint(pointer.x, pointer.y) : document.activeElement;
  return element?.closest(HOLDERS) ?? null;
}

function showCurrent() {
  const now = holderNow();
  for (const other of document.querySelectorAll(".current")) {
    if (other !== now) other.classList.remove("current");
  }
  if (now?.querySelector(".marking")) now.classList.add("current");
}

document.addEventListener("pointermove", event => {
  if (event.screenX === pointer.screenX && event.screenY === pointer.screenY) return; // the page moved, not the pointer
  Object.assign(pointer, { x: event.clientX, y: event.clientY, screenX: event.screenX, screenY: event.screenY, moved: true });
  showCurrent();
});
document.addEventListener("focusin", event => {
  if (event.target.closest(HOLDERS)) pointer.moved = false;
  showCurrent();
});
document.addEventListener("scroll", () => pointer.moved && showCurrent(), { passive: true });

document.addEventListener("keydown", event => {
  if (event.target.matches("select, textarea, input:not([type=checkbox], [type=range])")) return;
  const key = event.key.toLowerCase();
  if (key === "z" && !event.altKey && !event.shiftKey) {
    event.preventDefault();
    undo();
  }
  if (!(key in KEYS) || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const image = shown.image ?? holderNow()?.querySelector(".marking")?.image;
  event.preventDefault();
  if (image) mark(image, KEYS[key]);
  else say(panel.dataset.group ? "Point at an image, or move to one with the Tab key, to mark it." : "Open a group or an image to mark images.");
});

// Where an image lies; empty where the report is not the one that it was marked in: its id is enough.
async function locationOf(mark, id) {
  try {
    const row = await imageRow(await load(`group-${mark.group}/group`), mark.rank);
    return row.id === id ? row.prefix + row.name : "";
  } catch {
    return "";
  }
}

async function nameOf(group) {
  try {
    return (await load(`group-${group}/group`)).name;
  } catch {
    return "";
  }
}

async function downloadMarks() {
  const rows = await Promise.all([...marks.local].map(async ([id, mark]) => [mark, id, await locationOf(mark, id), await nameOf(mark.group)]));
  rows.sort(([one], [other]) => one.group - other.group || one.rank - other.rank);
  const address = URL.createObjectURL(new Blob([csvOf(rows)], { type: "text/csv" }));
  make("a", { href: address, download: "verdicts.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

markField("undo").addEventListener("click", undo);
markField("download").addEventListener("click", () => attempt(downloadMarks));
// The name is kept for all reports, where the browser keeps anything: the panel says where it does not.
function keepName() {
  try {
    localStorage.setItem(WHO, markField("who").value.trim());
  } catch {
    return;
  }
}
if (!marks.trouble) markField("who").value = localStorage.getItem(WHO) ?? "";
markField("who").addEventListener("change", keepName);
showMarks(null);
