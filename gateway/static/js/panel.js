// The settings: beside the conversation where there is room, and in its place where there is none.

import { element } from "./dom.js";
import { store, stored } from "./storage.js";

const SHEET = matchMedia("(max-width: 62rem)"); // as in layout.css: there they cover the conversation

const isOpen = () => document.body.classList.contains("panel-open");

function show(open) {
  document.body.classList.toggle("panel-open", open);
  element("settings").setAttribute("aria-expanded", String(open));
}

export function openPanel(focus = element("panel-close")) {
  show(true);
  const folded = focus.closest("details");
  if (folded) folded.open = true;
  focus.focus();
}

function closePanel() {
  const left = element("panel").contains(document.activeElement);
  show(false);
  if (left) element("settings").focus();
}

// Where the settings cover the conversation, they make way for it.
export function uncover() {
  if (SHEET.matches) closePanel();
}

export function listenForPanel() {
  const keep = () => SHEET.matches || store("panel", isOpen());
  element("settings").addEventListener("click", () => {
    if (isOpen()) closePanel();
    else openPanel();
    keep();
  });
  element("panel-close").addEventListener("click", () => {
    closePanel();
    keep();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) uncover();
  });
  const fit = () => show(!SHEET.matches && (stored("panel") ?? true));
  SHEET.addEventListener("change", fit);
  fit();
}
