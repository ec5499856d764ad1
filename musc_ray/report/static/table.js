"use strict";
// A table of any length: rows come in chunks of columns, a page is shown at a time, and all chunks are read only when
// sorting or filtering needs them. The chunks are in the order of the rows' numbers (from 1).

const PAGE_ROWS = 50;
const CHUNKS_AT_ONCE = 8;

const classOf = column => (column.number ? `number ${column.name}` : column.name);

class Table {
  // root: an element made by the template. source: { total, chunkRows, key(chunk) }.
  // columns: [{ name, label, number, value(row), cell(row) }]: `cell` is what is shown, by default the value as text;
  //   a column without `value` cannot be sorted by. The first sortable one is the order of the chunks ("natural").
  // matches(row): a further filter that needs all rows, or null. limit(): how many of the first rows count.
  // text(row): what the text filter looks into. state: as `state` returns it.
  constructor(root, { source, columns, text, limit = () => source.total, matches = () => null, state = {}, changed = () => {} }) {
    Object.assign(this, { root, source, columns, text, limit, matches, changed });
    this.natural = columns.find(column => column.value).name;
    this.sort = columns.some(column => column.value && column.name === state.sort) ? state.sort : this.natural;
    this.descending = state.descending === true;
    this.page = Number.isInteger(state.page) ? state.page : 0;
    this.turn = 0;
    this.search = root.querySelector("input[type=search]");
    this.search.value = state.filter ?? "";
    this.body = root.querySelector("tbody");
    this.count = root.querySelector(".count");
    this.makeHead();
    this.listen();
  }

  get state() {
    return { sort: this.sort, descending: this.descending, page: this.page, filter: this.search.value };
  }

  makeHead() {
    const row = this.root.querySelector("thead tr");
    for (const column of this.columns) {
      const head = make("th", { scope: "col", class: classOf(column) });
      if (column.value) {
        const button = make("button", { type: "button", text: column.label });
        button.addEventListener("click", () => this.sortBy(column));
        head.append(button);
        column.head = head;
      } else {
        head.append(column.label);
      }
      row.append(head);
    }
  }

  listen() {
    let waiting;
    this.search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.restart(), 150);
    });
    this.search.addEventListener("keydown", event => {
      if (event.key !== "Escape" && event.key !== "Enter") return;
      if (event.key === "Escape") this.search.value = "";
      clearTimeout(waiting);
      this.restart();
      event.preventDefault();
    });
    for (const button of this.root.querySelectorAll("[data-step]")) {
      button.addEventListener("click", () => this.step(button.dataset.step));
    }
    this.body.addEventListener("keydown", event => {
      const links = [...this.body.querySelectorAll("tr a")];
      const to = links.indexOf(event.target) + { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!links.includes(event.target) || !links[to]) return;
      links[to].focus();
      event.preventDefault();
    });
  }

  sortBy(column) {
    // The first click on a number shows the largest first, but ranks and names begin at the beginning.
    this.descending = this.sort === column.name ? !this.descending : Boolean(column.number) && column.name !== this.natural;
    this.sort = column.name;
    this.restart();
  }

  step(where) {
    const last = this.pages - 1;
    this.page = { first: 0, previous: this.page - 1, next: this.page + 1, last }[where];
    this.show();
    this.root.scrollIntoView({ block: "start" });
  }

  restart() {
    this.page = 0;
    return this.show();
  }

  // Shows the page that the state asks for. Of two at the same time the later one wins.
  show() {
    const turn = ++this.turn;
    return attempt(async () => {
      const numbers = await this.numbers();
      if (turn !== this.turn || numbers === null) return;
      this.pages = Math.max(1, Math.ceil(numbers.length / PAGE_ROWS));
      this.page = Math.min(Math.max(this.page, 0), this.pages - 1);
      const wanted = Array.from(numbers.slice(this.page * PAGE_ROWS, (this.page + 1) * PAGE_ROWS));
      const rows = await Promise.all(wanted.map(number => this.row(number)));
      if (turn !== this.turn) return;
      this.body.replaceChildren(...rows.map(row => this.makeRow(row)));
      this.describe(numbers.length, wanted.length);
      this.changed(this);
    });
  }

  // The numbers of all rows to be shown, in order. Without filter and in the natural order nothing needs to be read.
  async numbers() {
    const limit = this.limit();
    const words = this.search.value.toLowerCase();
    const matches = this.matches();
    const column = this.columns.find(one => one.name === this.sort);
    if (!words && !matches && this.sort === this.natural) {
      const place = this.descending ? i => limit - i : i => i + 1;
      return { length: limit, slice: (from, to) => Array.from({ length: Math.max(0, Math.min(to, limit) - from) }, (_, i) => place(from + i)) };
    }
    const turn = this.turn;
    const chunks = await this.allChunks(Math.ceil(limit / this.source.chunkRows), turn);
    if (chunks === null) return null;
    const found = [];
    chunks.forEach((columns, chunk) => {
      const first = chunk * this.source.chunkRows;
      const rows = Math.min(this.source.chunkRows, limit - first);
      for (let at = 0; at < rows; at++) {
        const row = rowOf(columns, at, first + at + 1);
        if (words && !this.text(row).toLowerCase().includes(words)) continue;
        if (matches && !matches(row)) continue;
        found.push([column.value(row), row.rank]);
      }
    });
    const sign = this.descending ? -1 : 1;
    found.sort(([a, i], [b, j]) => (a < b ? -sign : a > b ? sign : i - j)); // ties stay in the natural order
    return found.map(([, number]) => number);
  }

  async allChunks(count, turn) {
    const chunks = new Array(count);
    let next = 0;
    const read = async () => {
      while (next < count && turn === this.turn) {
        const chunk = next++;
        chunks[chunk] = await load(this.source.key(chunk));
        if (chunk % 16 === 15) this.count.textContent = `Reading ${whole(chunk + 1)} of ${whole(count)} parts…`;
      }
    };
    await Promise.all(Array.from({ length: CHUNKS_AT_ONCE }, read));
    return turn === this.turn ? chunks : null;
  }

  async row(number) {
    const { chunkRows, key } = this.source;
    const chunk = Math.floor((number - 1) / chunkRows);
    return rowOf(await load(key(chunk)), (number - 1) % chunkRows, number);
  }

  makeRow(row) {
    const cells = this.columns.map(column => {
      const cell = make("td", { class: classOf(column) });
      const content = column.cell ? column.cell(row) : String(column.value(row));
      if (content !== null) cell.append(content);
      return cell;
    });
    return make("tr", {}, ...cells);
  }

  describe(found, shown) {
    const first = this.page * PAGE_ROWS + 1;
    const range = shown ? `${whole(first)} to ${whole(first + shown - 1)} of ` : "";
    const all = found === this.source.total ? "" : ` (${whole(this.source.total)} in all)`;
    this.count.textContent = found ? `${range}${whole(found)}${all}` : `None of ${whole(this.source.total)}`;
    for (const column of this.columns.filter(one => one.value)) {
      const order = this.descending ? "descending" : "ascending";
      column.head.setAttribute("aria-sort", column.name === this.sort ? order : "none");
    }
    this.root.querySelector(".pager").hidden = this.pages === 1;
    this.root.querySelector(".page").textContent = `Page ${whole(this.page + 1)} of ${whole(this.pages)}`;
    for (const button of this.root.querySelectorAll("[data-step]")) {
      const back = ["first", "previous"].includes(button.dataset.step);
      button.disabled = back ? this.page === 0 : this.page === this.pages - 1;
    }
  }
}

// "/" goes to the filter of the page's last table with one, as in many tools.
document.addEventListener("keydown", event => {
  if (event.key !== "/" || isTyping(event)) return;
  const field = document.querySelector(".data-table[data-main] input[type=search]");
  if (!field) return;
  field.focus();
  event.preventDefault();
});
