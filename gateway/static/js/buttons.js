// The small buttons beneath messages and answers.

import { copy, make } from "./dom.js";
import { t } from "./i18n.js";

export const action = (word, onclick, more = {}) =>
  make("button", { type: "button", className: "plain", onclick, ...more }, t(word));

// The button says for a moment that it did it.
export const copyAction = (text) =>
  action("copy", async ({ currentTarget }) => {
    await copy(text());
    currentTarget.textContent = t("copied");
    setTimeout(() => {
      currentTarget.textContent = t("copy");
    }, 1500);
  });
