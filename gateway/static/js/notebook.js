// Shows Complete: one document that can be edited everywhere. A text area takes what is typed, and above it lies the same text
// with its marks: the last generation, or its tokens with their tint.

import { reason, tokenWriter } from "./answer.js";
import { isRunning } from "./answering.js";
import { action, copyAction } from "./buttons.js";
import { conversation, currentVersion } from "./conversation.js";
import { answerOf, edit, generated, generation, showVariant, textOf, variants } from "./document.js";
import { element, make } from "./dom.js";
import { sentence } from "./figures.js";
import { number, t } from "./i18n.js";
import { pictureAction } from "./picture.js";
import { limitOf } from "./requests.js";

const END = "\u200b"; // so that an empty last line is as high as any other

// `view`: {does, redraw, drawn}, see chat.js.
export function notebookNode(view) {
  const area = make("textarea", { id: "document", spellcheck: false, placeholder: t("completeHint"), "aria-label": t("document") });
  const marks = make("div", { className: "marks" });
  const footer = make("div", { className: "footer" });
  const empty = !textOf(conversation());
  let update = marker(area, marks, view);
  const updateAll = () => {
    update();
    footer.replaceChildren(...actions(area, view));
  };
  area.addEventListener("input", () => {
    const marked = generation();
    edit(area.value);
    view.does.changed();
    if (marked && !generation()) update = marker(area, marks, view);
    updateAll();
  });
  const exchange = generation();
  for (const sample of (exchange && currentVersion(exchange)?.samples) ?? []) view.drawn.set(sample, updateAll);
  updateAll();
  return make(
    "article",
    { className: "notebook" },
    make("div", { className: "sheet" }, area, marks),
    footer,
    empty && !isRunning() ? examples(view) : null,
  );
}

// Returns what brings the text area and the marks above it up to date.
function marker(area, marks, view) {
  const [before, after] = [document.createTextNode(""), document.createTextNode("")];
  const middle = make("span", { className: "generated" });
  const hidden = (node) => make("span", { "aria-hidden": "true" }, node);
  const exchange = generation();
  const sample = exchange && generated(exchange);
  const tinted = sample && element("probabilities").checked;
  const write = tinted ? tokenWriter(exchange, currentVersion(exchange), sample, middle, view) : () => (middle.textContent = sample ? answerOf(exchange) : "");
  if (!tinted) middle.setAttribute("aria-hidden", "true");
  middle.classList.toggle("tinted", Boolean(tinted));
  marks.replaceChildren(hidden(before), middle, hidden(after));
  return () => {
    const text = textOf(conversation());
    const writing = sample?.finish === null;
    if (area.value !== text) {
      area.value = text;
      const end = text.length - (sample ? exchange.after.length : 0);
      area.setSelectionRange(end, end);
    }
    area.readOnly = writing;
    marks.classList.toggle("writing", writing);
    write();
    before.data = sample ? exchange.prompt : text;
    after.data = (sample ? exchange.after : "") + END;
  };
}

function actions(area, { does, redraw }) {
  const exchange = generation();
  const version = exchange && currentVersion(exchange);
  if (isRunning()) return [figures(version)];
  const inside = area.selectionEnd < area.value.length;
  const cursor = action("fromCursor", () => does.generate(area.selectionEnd), { id: "from-cursor", disabled: !inside });
  return [
    version && variants(exchange).length > 1 && choice(exchange, redraw),
    version && action("undo", () => does.undo()),
    version && action("regenerate", () => does.regenerate(exchange)),
    area.value && cursor,
    area.value && copyAction(() => area.value),
    version && element("probabilities").checked && pictureAction(generated(exchange), exchange, version),
    version && ending(version, generated(exchange)),
    version && figures(version),
  ].filter(Boolean);
}

const figures = (version) => make("p", { className: "figures" }, sentence(version?.figures));

function ending(version, sample) {
  const why = sample.finish && reason(version, sample);
  return why ? make("span", { className: "why" }, t(why, { count: number(limitOf(version.source)) })) : null;
}

function choice(exchange, redraw) {
  const all = variants(exchange);
  const now = all.findIndex(
    ({ version, sample }) => version === exchange.current && sample === exchange.versions[version].chosen,
  );
  const button = (word, sign, to) => {
    const onclick = ({ currentTarget }) => {
      showVariant(exchange, all[to]);
      redraw(currentTarget);
    };
    return make("button", { type: "button", className: "plain", "aria-label": t(word), disabled: !all[to], onclick }, sign);
  };
  const label = t("versionOf", { number: now + 1, count: all.length });
  const counter = make("span", { "aria-label": label, role: "img" }, `${now + 1}/${all.length}`);
  return make("span", { className: "versions" }, button("earlier", "‹", now - 1), counter, button("later", "›", now + 1));
}

function examples({ does }) {
  const texts = [1, 2, 3].map((number) => t(`completeExample${number}`));
  const button = (text) => make("button", { type: "button", className: "quiet", onclick: () => does.example(text) }, text.trim());
  return make("div", { className: "examples" }, ...texts.map(button));
}

// The button that goes on from the cursor is there for a cursor that is not at the end.
document.addEventListener("selectionchange", () => {
  const area = element("document");
  const button = element("from-cursor");
  if (area && button && document.activeElement === area) button.disabled = area.selectionEnd === area.value.length;
});
