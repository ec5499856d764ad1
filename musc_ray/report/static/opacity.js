"use strict";
// The slider and the switch of all heat maps on a page.

const opacity = document.getElementById("opacity");
if (opacity) {
  const overlay = document.getElementById("overlay");
  const apply = () => {
    document.documentElement.style.setProperty("--overlay", overlay.checked ? opacity.value / 100 : 0);
    document.getElementById("opacity-value").textContent = `${opacity.value} %`;
  };
  opacity.addEventListener("input", () => {
    overlay.checked = true;
    apply();
  });
  overlay.addEventListener("change", apply);
  document.addEventListener("keydown", event => {
    if (event.key !== "h" || isTyping(event)) return;
    overlay.checked = !overlay.checked;
    apply();
  });
  apply();
}
