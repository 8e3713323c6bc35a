// The panel beside the conversation; where there is no room beside it, it takes the conversation's place.

import { element } from "./dom.js";

export function openPanel(focus = element("key")) {
  document.body.classList.add("panel-open");
  element("settings").setAttribute("aria-expanded", "true");
  focus.focus();
}

export function closePanel() {
  const left = element("panel").contains(document.activeElement);
  document.body.classList.remove("panel-open");
  if (left) element("settings").focus(); // where the panel stays beside the conversation there is no such button
  element("settings").setAttribute("aria-expanded", "false");
}

export function listenForPanel() {
  element("settings").addEventListener("click", () => {
    if (document.body.classList.contains("panel-open")) closePanel();
    else openPanel();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) closePanel();
  });
}
