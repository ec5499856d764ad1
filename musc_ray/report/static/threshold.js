"use strict";
// How many images a threshold holds: a slider under the histogram, the threshold and the number of images as fields.

class Threshold {
  // scores: descending. labels: as many, 1 = anomalous, 0 = normal, or null. changed(held) is called after each change.
  constructor(group, scores, labels, start, changed) {
    Object.assign(this, { group, scores, labels, changed });
    this.histogram = new Histogram(document.getElementById("histogram"), scores, labels);
    this.slider = document.getElementById("threshold");
    this.field = document.getElementById("threshold-value");
    this.count = document.getElementById("held");
    this.slider.addEventListener("input", () => this.set(this.low + (this.slider.value / 1000) * (this.high - this.low)));
    this.field.addEventListener("change", () => this.set(this.field.valueAsNumber));
    this.count.addEventListener("change", () => this.set(this.thresholdOf(this.count.valueAsNumber)));
    document.getElementById("threshold-reset").addEventListener("click", () => this.set(group.threshold));
    this.set(start);
  }

  get low() {
    return this.histogram.low;
  }

  get high() {
    return this.histogram.high;
  }

  // Images with a score of at least the threshold: they are the first ones.
  heldBy(threshold) {
    let [low, high] = [0, this.scores.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.scores[middle] >= threshold) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // The threshold that holds so many images (and those with the same score as the last one).
  thresholdOf(count) {
    if (!(count >= 1)) return this.scores[0] + (this.high - this.low) / 1000;
    return this.scores[Math.min(Math.floor(count), this.scores.length) - 1];
  }

  set(threshold) {
    if (Number.isFinite(threshold)) this.value = threshold;
    this.held = this.heldBy(this.value);
    const position = ((this.value - this.low) / (this.high - this.low)) * 1000;
    this.slider.value = Math.round(Math.min(Math.max(position, 0), 1000));
    // Rounded, but down where the number that is shown would hold fewer images.
    const shown = Number(fixed(this.value));
    this.field.value = fixed(this.heldBy(shown) === this.held ? shown : Math.floor(this.value * 1e4) / 1e4);
    this.count.value = this.held;
    const words = `${whole(this.held)} of ${plural(this.scores.length, "image")} held`;
    const share = `${((100 * this.held) / this.scores.length).toFixed(1)} %`;
    this.slider.setAttribute("aria-valuetext", `${fixed(this.value)}, ${words}`);
    document.getElementById("held-share").textContent = `${words} (${share})`;
    this.showLabels();
    this.histogram.show(this.value, `Distribution of scores from ${fixed(this.low)} to ${fixed(this.high)}; ${words}`);
    this.changed(this.held);
  }

  showLabels() {
    if (this.labels === null) return;
    const count = (label, end) => this.labels.subarray(0, end).reduce((sum, one) => sum + (one === label), 0);
    const [all, held, good] = [count(1), count(1, this.held), count(0, this.held)];
    const line = document.getElementById("held-labels");
    line.textContent = `Of ${whole(all)} labelled anomalous: ${whole(held)} held, ${whole(all - held)} missed. Labelled normal and held: ${whole(good)}.`;
    line.hidden = false;
  }
}
