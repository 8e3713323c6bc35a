// The page's language: the browser's, or the one chosen. Static nodes carry their key, the views ask with t().

import { stored, store } from "./storage.js";
import en from "./words/en.js";
import zh from "./words/zh.js";

const WORDS = { en, zh };
const ATTRIBUTES = { label: "aria-label", hint: "placeholder" }; // data-label and data-hint

export let language = stored("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");

export function t(key, values = {}) {
  return WORDS[language][key].replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

export const known = (key) => key in WORDS[language];

export const number = (value, digits = 0) =>
  new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);

export const duration = (milliseconds) =>
  milliseconds < 1000
    ? t("milliseconds", { number: number(milliseconds) })
    : t("seconds", { number: number(milliseconds / 1000, 1) });

export const percent = (share, digits = null) => {
  const precision = digits === null ? { maximumSignificantDigits: share < 0.1 ? 2 : 3 } : { maximumFractionDigits: digits };
  return new Intl.NumberFormat(language, { style: "percent", ...precision }).format(share);
};

export function setLanguage(chosen) {
  language = chosen;
  store("language", chosen);
  localize();
}

export function localize() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const [name, attribute] of Object.entries(ATTRIBUTES)) {
    for (const node of document.querySelectorAll(`[data-${name}]`)) node.setAttribute(attribute, t(node.dataset[name]));
  }
}
