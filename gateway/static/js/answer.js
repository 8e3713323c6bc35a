// Shows the answers to one question: side by side, each with its text and how it ended, and beneath them what can be done.

import { isRunning } from "./answering.js";
import { action, copyAction } from "./buttons.js";
import { exchanges } from "./conversation.js";
import { element, make } from "./dom.js";
import { sentence } from "./figures.js";
import { number, t } from "./i18n.js";
import { markdownView } from "./markdown.js";
import { pictureAction } from "./picture.js";
import { limitOf } from "./requests.js";
import { moveByKeys, tokenNode } from "./tokens.js";

// `view`: {does, redraw, drawn}, see chat.js.
export function answersNode(exchange, version, view) {
  const samples = make("div", { className: "samples" });
  const footer = make("div", { className: "footer" });
  const figures = make("p", { className: "figures", title: t("figuresHint") });
  const update = () => {
    const writing = version.samples.some(({ finish }) => finish === null);
    figures.textContent = sentence(version.figures);
    if (!writing || !footer.childElementCount) footer.replaceChildren(...(writing ? [] : actions(exchange, version, view)), figures);
  };
  samples.append(...version.samples.map((sample) => sampleNode(exchange, version, sample, view, update)));
  update();
  return make("div", { className: "answers" }, samples, footer);
}

function sampleNode(exchange, version, sample, view, updateFooter) {
  const message = make("div", { className: "message" });
  const end = make("div", { className: "ending" });
  const several = version.samples.length > 1;
  const title = several ? t("answer", { number: version.samples.indexOf(sample) + 1 }) : t("assistant");
  const heading = make("h2", { className: "hidden" }, title);
  const node = make("section", { className: "sample", "aria-label": title }, heading, message, end);
  node.classList.toggle("chosen", several && version.samples[version.chosen] === sample);
  const more = writer(exchange, version, sample, message, view);
  const update = () => {
    const writing = sample.finish === null;
    more();
    node.classList.toggle("writing", writing);
    node.setAttribute("aria-busy", String(writing));
    end.replaceChildren(...(writing ? [] : ending(exchange, version, sample, view)));
  };
  view.drawn.set(sample, () => {
    update();
    updateFooter();
  });
  update();
  return node;
}

// Returns what adds the text that is new since the last time: an answer of a thousand tokens is not drawn a thousand times.
function writer(exchange, version, sample, message, view) {
  if (element("probabilities").checked) return tokenWriter(exchange, version, sample, message, view);
  message.classList.add("markdown");
  const show = markdownView(message);
  return () => show(sample.text);
}

// Token by token, and as it was written: a token is no Markdown.
export function tokenWriter(exchange, version, sample, message, view) {
  const rest = document.createTextNode("");
  const group = make("span", { role: "group", "aria-label": t("tokens") });
  moveByKeys(group);
  message.append(group, rest);
  let count = 0;
  return () => {
    const { list } = sample.segments;
    if (list.length < count) {
      group.replaceChildren();
      count = 0;
    } // it began again
    for (; count < list.length; count += 1) group.append(token(exchange, version, sample, count, view));
    if (group.firstChild && !group.querySelector("[tabindex='0']")) group.firstChild.tabIndex = 0;
    rest.data = sample.segments.rest(sample.text);
  };
}

function token(exchange, version, sample, index, { does }) {
  const choose = version.source.values.response_format
    ? null
    : (tokens, text) => does.branch(exchange, version, sample, index, tokens, text);
  return tokenNode(sample.segments.list[index], choose);
}

// Where an answer did not end by itself: why, and a way on; and which of several is picked.
function ending(exchange, version, sample, { does, redraw }) {
  const why = reason(version, sample);
  const last = exchange === exchanges().at(-1);
  const possible = why && why !== "endContext" && why !== "endEmpty";
  const goOn = possible && last && !version.source.values.response_format && action("goOn", () => does.goOn(version, sample));
  return [
    why && make("span", { className: "why" }, t(why, { count: number(limitOf(version.source)) })),
    goOn,
    ...(version.samples.length > 1 ? ofSeveral(exchange, version, sample, redraw) : []),
  ].filter(Boolean);
}

export function reason(version, { finish, spent, text }) {
  if (finish === "stopped") return "endStopped";
  if (finish === "broken") return "endBroken";
  if (finish === "length") return spent < (limitOf(version.source) ?? Infinity) ? "endContext" : "endLimit";
  return text ? null : "endEmpty";
}

function ofSeveral(exchange, version, sample, redraw) {
  const picked = version.samples[version.chosen] === sample;
  const pick = ({ currentTarget }) => {
    version.chosen = version.samples.indexOf(sample);
    redraw(currentTarget);
  };
  const button = action(picked ? "chosen" : "choose", pick, { "aria-pressed": String(picked), disabled: picked });
  return [copyAction(() => sample.text), button];
}

function actions(exchange, version, { does, redraw }) {
  const [only, ...others] = version.samples;
  return [
    exchange.versions.length > 1 && versions(exchange, redraw),
    !others.length && copyAction(() => only.text),
    action("regenerate", () => does.regenerate(exchange)),
    element("probabilities").checked && pictureAction(version.samples[version.chosen], exchange, version),
  ].filter(Boolean);
}

function versions(exchange, redraw) {
  const turn =
    (step) =>
    ({ currentTarget }) => {
      if (isRunning()) return;
      exchange.current += step;
      redraw(currentTarget);
    };
  const {
    current,
    versions: { length },
  } = exchange;
  const button = (word, sign, step, possible) =>
    make(
      "button",
      { type: "button", className: "plain", "aria-label": t(word), disabled: !possible, onclick: turn(step) },
      sign,
    );
  return make(
    "span",
    { className: "versions" },
    button("earlier", "‹", -1, current > 0),
    make(
      "span",
      { "aria-label": t("versionOf", { number: current + 1, count: length }), role: "img" },
      `${current + 1}/${length}`,
    ),
    button("later", "›", 1, current < length - 1),
  );
}
