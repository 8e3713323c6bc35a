// Which keys send what is written: Enter, or Ctrl+Enter where that is chosen; Ctrl+Enter always does.

import { stored, store } from "./storage.js";

const APPLE = /Mac|iPhone|iPad/.test(navigator.platform);

export const sendKey = () => stored("sendKey") ?? "enter";
export const setSendKey = (chosen) => store("sendKey", chosen);

// In a document Enter always breaks the line.
export const sendKeyName = (mode) => (mode === "chat" && sendKey() === "enter" ? "⏎" : `${APPLE ? "⌘" : "Ctrl "}⏎`);
export const generates = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing;

export function sends(event) {
  if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return false; // an input method's own Enter
  if (event.ctrlKey || event.metaKey) return true;
  const touch = matchMedia("(pointer: coarse)").matches; // no Shift at hand: Enter breaks the line, the button sends
  return sendKey() === "enter" && !event.shiftKey && !event.altKey && !touch;
}
