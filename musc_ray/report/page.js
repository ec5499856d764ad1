"use strict";
// The slider needs this script, so it stays hidden where scripts do not run; the checkbox works without.
const control = document.getElementById("opacity-control");
if (control) {
  const slider = document.getElementById("opacity");
  const value = document.getElementById("opacity-value");
  const apply = () => {
    document.documentElement.style.setProperty("--overlay", slider.value / 100);
    value.textContent = slider.value + " %";
  };
  slider.addEventListener("input", apply);
  apply();
  control.hidden = false;
}
