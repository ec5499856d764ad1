"use strict";
// The histogram of a group's scores, with what lies at or above the threshold in another colour.

const PLOT = { width: 1000, height: 200, left: 48, right: 992, top: 12, bottom: 170 };
const LOG_FROM = 1000; // images in the tallest bar from which counts are drawn on a log scale
const MIN_BAR = 2; // a bar of one image among a million must still be seen

function svg(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// Scores in descending order, as many labels (or null) -> { low, high, bins: [{ low, high, count, anomalous }] }.
// About sqrt(N) bins (the square-root rule) within 20 to 80; equal scores fall into a range of width 1 around them.
function binScores(scores, labels) {
  let [low, high] = [scores[scores.length - 1], scores[0]];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const count = Math.min(80, Math.max(20, Math.floor(Math.sqrt(scores.length))));
  const edge = i => low + ((high - low) * i) / count;
  const bins = Array.from({ length: count }, (_, i) => ({ low: edge(i), high: edge(i + 1), count: 0, anomalous: 0 }));
  scores.forEach((score, i) => {
    const bin = bins[Math.min(count - 1, Math.floor(((score - low) / (high - low)) * count))];
    bin.count += 1;
    if (labels && labels[i] === 1) bin.anomalous += 1;
  });
  return { low, high, bins };
}

// At most `most` round values (1, 2 or 5 times a power of ten apart) within [low, high].
function roundTicks(low, high, most) {
  const rough = (high - low) / (most - 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find(factor => factor * power >= rough * (1 - 1e-9)) * power;
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => ({ value: (first + i) * step, label: ((first + i) * step).toFixed(decimals) }));
}

class Histogram {
  constructor(element, scores, labels) {
    this.element = element;
    Object.assign(this, binScores(scores, labels));
    this.withLabels = labels !== null;
    const tallest = Math.max(...this.bins.map(bin => bin.count));
    this.level = tallest >= LOG_FROM ? Math.log1p : Number;
    this.top = this.level(tallest);
    element.setAttribute("viewBox", `0 0 ${PLOT.width} ${PLOT.height}`);
    this.drawAxes(tallest);
    this.bars = this.bins.filter(bin => bin.count).map(bin => this.drawBar(bin));
    this.cut = svg("line", { class: "cut", y1: PLOT.top - 8, y2: PLOT.bottom });
    element.append(this.cut);
  }

  x(score) {
    return PLOT.left + ((score - this.low) / (this.high - this.low)) * (PLOT.right - PLOT.left);
  }

  heightOf(count) {
    return count ? Math.max(MIN_BAR, (this.level(count) / this.top) * (PLOT.bottom - PLOT.top)) : 0;
  }

  drawBar(bin) {
    const [left, right] = [this.x(bin.low), this.x(bin.high)];
    const words = this.withLabels ? `, ${whole(bin.anomalous)} of them anomalous` : "";
    const group = svg("g", {});
    const bar = (kind, count, inset) => svg("rect", { class: kind, x: left + inset, width: Math.max(1, right - left - 2 * inset), y: PLOT.bottom - this.heightOf(count), height: this.heightOf(count) });
    group.append(
      svg("title", {}, `${fixed(bin.low)} to ${fixed(bin.high)}: ${plural(bin.count, "image")}${words}`),
      svg("rect", { class: "reach", x: left, width: right - left, y: PLOT.top, height: PLOT.bottom - PLOT.top }),
      bar("bar-all", bin.count, 0.5),
    );
    if (bin.anomalous) group.append(bar("bar-anomalous", bin.anomalous, (right - left) / 4));
    this.element.append(group);
    return { group, bin };
  }

  drawAxes(tallest) {
    const log = this.level !== Number;
    const powers = Array.from({ length: Math.floor(Math.log10(tallest)) + 1 }, (_, i) => ({ value: 10 ** i, label: whole(10 ** i) }));
    for (const { value, label } of log ? powers : roundTicks(0, tallest, 5).filter(tick => Number.isInteger(tick.value))) {
      const y = PLOT.bottom - (this.level(value) / this.top) * (PLOT.bottom - PLOT.top);
      this.element.append(svg("line", { class: "grid", x1: PLOT.left, x2: PLOT.right, y1: y, y2: y }), svg("text", { class: "y", x: PLOT.left - 8, y: y + 4 }, label));
    }
    for (const { value, label } of roundTicks(this.low, this.high, 9)) {
      this.element.append(svg("line", { class: "axis", x1: this.x(value), x2: this.x(value), y1: PLOT.bottom, y2: PLOT.bottom + 5 }), svg("text", { class: "x", x: this.x(value), y: PLOT.bottom + 20 }, label));
    }
    this.element.append(svg("line", { class: "axis", x1: PLOT.left, x2: PLOT.right, y1: PLOT.bottom, y2: PLOT.bottom }));
  }

  // A bin counts as held when its middle does: a threshold rarely falls on an edge.
  show(threshold, description) {
    for (const { group, bin } of this.bars) group.setAttribute("class", (bin.low + bin.high) / 2 >= threshold ? "held" : "");
    const x = this.x(Math.min(Math.max(threshold, this.low), this.high));
    this.cut.setAttribute("x1", x);
    this.cut.setAttribute("x2", x);
    this.element.setAttribute("aria-label", description);
  }
}
