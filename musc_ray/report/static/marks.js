"use strict";
// What a person says of images: { verdict, note, who, when, group, rank }, when as ISO text.
//
// All pages of a run's report share the marks in localStorage, an entry a mark, so that marking one of many is fast. A
// browser may refuse that, or be full: then marks live as long as the page, and the page says so. Verdicts that the OUT
// held when the report was written are in data/group-<n>/verdicts.js; of a mark and a verdict the later one counts.

const VERDICTS = ["good", "defective", "unsure"];
const MAX_STEPS = 100;

class Marks {
  // run: its id and time, which name the entries: another archive may have a run of the same name. changed(ids) is called with the images whose mark may have changed, null: all.
  constructor(run, changed) {
    Object.assign(this, { prefix: `musc-ray/${run}/`, changed, local: new Map(), stored: new Map(), trouble: null });
    this.stepsKey = `musc-ray-steps/${run}`;
    this.steps = [];
    this.read();
    window.addEventListener("storage", event => this.changedElsewhere(event));
    window.addEventListener("pageshow", event => {
      if (!event.persisted || this.trouble) return; // back on a page that was kept as it was
      this.read();
      this.changed(null);
    });
    window.addEventListener("beforeunload", event => {
      if (this.trouble && this.local.size) event.preventDefault();
    });
  }

  read() {
    try {
      this.local = new Map(Object.keys(localStorage).filter(key => key.startsWith(this.prefix))
        .map(key => [key.slice(this.prefix.length), markOf(localStorage.getItem(key))]).filter(([, mark]) => mark));
      this.steps = JSON.parse(sessionStorage.getItem(this.stepsKey)) ?? [];
      localStorage.setItem(this.stepsKey, ""); // whether it may be written shows now, not after the first mark
      localStorage.removeItem(this.stepsKey);
    } catch (error) {
      this.fail(error);
    }
  }

  changedElsewhere({ key, newValue }) {
    if (this.trouble || (key !== null && !key.startsWith(this.prefix))) return;
    if (key === null) this.local.clear(); // all was removed
    else this.keep(key.slice(this.prefix.length), markOf(newValue));
    this.changed(key === null ? null : [key.slice(this.prefix.length)]);
  }

  // Adds the verdicts of a group that the OUT held; marks that they contain have done their work.
  addStored(group, { id, rank, ...columns }) {
    id.forEach((image, at) => {
      const said = Object.fromEntries(Object.entries(columns).map(([name, list]) => [name, list[at]]));
      this.stored.set(image, { ...said, group, rank: rank[at] });
      if (this.local.has(image) && !isLater(this.local.get(image), said)) this.write(image, null);
    });
    this.changed(null);
  }

  // The mark that counts, or undefined.
  of(image) {
    return this.local.get(image) ?? this.stored.get(image);
  }

  // Marks an image { id, group, rank }; saying the same again is no step.
  set(image, verdict, note, who) {
    const before = this.of(image.id);
    if (before?.verdict === verdict && before.note === note) return;
    const earliest = before ? Date.parse(before.when) + 1 : 0; // a clock may be behind that of an earlier verdict
    const when = new Date(Math.max(Date.now(), earliest)).toISOString();
    this.steps = [...this.steps.slice(1 - MAX_STEPS), { image, before: this.local.get(image.id) ?? null }];
    this.write(image.id, { verdict, note, who, when, group: image.group, rank: image.rank });
    this.writeSteps();
    this.changed([image.id]);
  }

  // Takes the last step back; returns its image, or undefined without one.
  undo() {
    const step = this.steps.pop();
    if (!step) return undefined;
    this.write(step.image.id, step.before);
    this.writeSteps();
    this.changed([step.image.id]);
    return step.image;
  }

  // Numbers of images by verdict; of one group where it is given.
  counts(group = null) {
    const counts = Object.fromEntries(VERDICTS.map(verdict => [verdict, 0]));
    const counted = new Map([...this.stored, ...this.local]);
    for (const mark of counted.values()) {
      if (group === null || mark.group === group) counts[mark.verdict]++;
    }
    return counts;
  }

  keep(image, mark) {
    if (mark) this.local.set(image, mark);
    else this.local.delete(image);
  }

  write(image, mark) {
    this.keep(image, mark);
    if (this.trouble) return;
    try {
      if (mark) localStorage.setItem(this.prefix + image, JSON.stringify(mark));
      else localStorage.removeItem(this.prefix + image);
    } catch (error) {
      this.fail(error);
    }
  }

  writeSteps() {
    if (this.trouble) return;
    try {
      sessionStorage.setItem(this.stepsKey, JSON.stringify(this.steps));
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error) {
    const full = error.name === "QuotaExceededError";
    this.trouble = `${full ? "This browser's storage is full" : "This browser does not let the page store anything"}: new marks are lost when you leave or reload it, so download them first.`;
  }
}

// A mark from its text; undefined where another version, or another program, has written it.
function markOf(text) {
  try {
    const mark = JSON.parse(text);
    const whole = mark !== null && VERDICTS.includes(mark.verdict) && Number.isFinite(Date.parse(mark.when)) && Number.isInteger(mark.group) && Number.isInteger(mark.rank);
    return whole && [mark.note, mark.who].every(part => typeof part === "string") ? mark : undefined;
  } catch {
    return undefined;
  }
}

const isLater = (mark, other) => Date.parse(mark.when) > Date.parse(other.when);

// The marks as the text of verdicts.csv, which `musc-ray verdicts` reads: [mark, image id, location, name of the group].
function csvOf(rows) {
  const header = ["image_id", "uri", "group", "verdict", "note", "who", "when"];
  const lines = rows.map(([mark, id, uri, group]) => [id, uri, group, mark.verdict, mark.note, mark.who, mark.when]);
  return [header, ...lines].map(values => `${values.map(csvValue).join(",")}\r\n`).join("");
}

// An apostrophe keeps spreadsheets from computing a text; `musc-ray verdicts` takes it off.
function csvValue(text) {
  const guarded = /^'*[=+\-@]/.test(text) ? `'${text}` : text;
  return /[",\r\n]|^\s|\s$/.test(guarded) ? `"${guarded.replaceAll('"', '""')}"` : guarded;
}
