// Shows what somebody asked, and lets them change it.

import { isRunning } from "./answering.js";
import { action, copyAction } from "./buttons.js";
import { make } from "./dom.js";
import { t } from "./i18n.js";
import { sends } from "./keys.js";

// `view`: {does, redraw}, see chat.js.
export function questionNode(exchange, view) {
  const box = make("div", { className: "asked" });
  const edit = action("edit", () => {
    if (!isRunning()) box.replaceWith(editor(exchange, view));
  });
  const unanswered = !exchange.versions.length && action("tryAgain", () => view.does.regenerate(exchange));
  box.append(
    make("h2", { className: "hidden" }, t("you")),
    make("div", { className: "message" }, exchange.prompt),
    make("div", { className: "actions" }, ...[unanswered, edit].filter(Boolean), copyAction(() => exchange.prompt)),
  );
  return box;
}

function editor(exchange, { does, redraw }) {
  const area = make("textarea", { rows: 3, value: exchange.prompt, "aria-label": t("editHint") });
  const send = () => {
    if (area.value.trim()) does.edit(exchange, area.value);
  };
  area.addEventListener("keydown", (event) => {
    if (sends(event)) {
      event.preventDefault();
      send();
    }
    if (event.key === "Escape") redraw(area.nextSibling.firstChild);
  });
  queueMicrotask(() => area.focus());
  return make(
    "div",
    { className: "asked editor" },
    area,
    make(
      "div",
      { className: "actions" },
      action("cancel", (event) => redraw(event.currentTarget)),
      make("button", { type: "button", onclick: send }, t("send")),
    ),
  );
}
