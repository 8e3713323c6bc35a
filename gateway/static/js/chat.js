// Shows the conversation: exchanges, the answers to each side by side, and what can be done with them.

import { isRunning } from "./answering.js";
import { currentVersion, exchanges, state } from "./conversation.js";
import { copy, element, make } from "./dom.js";
import { t } from "./i18n.js";
import { markdownView } from "./markdown.js";
import { close, moveByKeys, tokenNode } from "./tokens.js";

const DRAW_EVERY = 40; // ms: each drawing lays the whole answer out again, so not each token has one
const NEAR_THE_END = 80; // px: whoever scrolled up further stays there
const ENDINGS = { length: "endLength", stop: "endStop", stopped: "endStopped", broken: "endBroken" };

const drawn = new Map(); // sample → what updates its node
const changed = new Set(); // samples with more than is shown
let does = {}; // edit, regenerate, goOn, branch, example: what main.js does when they are asked for

export function setUpChat(actions) {
  does = actions;
}

const probabilities = () => element("probabilities").checked;

export function showConversation({ toEnd = false } = {}) {
  const list = exchanges();
  scrolled(toEnd, () => {
    drawn.clear();
    changed.clear();
    close();
    element("conversation").replaceChildren(...(list.length ? list.map(exchangeNode) : [welcome()]));
    element("legend").hidden = !probabilities() || !list.length;
  });
}

// Something was added to the sample: it is shown soon.
export function showMore(sample) {
  if (!changed.size) setTimeout(showChanged, DRAW_EVERY);
  changed.add(sample);
}

export function showChanged() {
  if (changed.size) scrolled(false, () => changed.forEach((sample) => drawn.get(sample)?.()));
  changed.clear();
}

function scrolled(toEnd, draw) {
  const view = element("conversation");
  const { scrollTop } = view;
  const follow = toEnd || view.scrollHeight - scrollTop - view.clientHeight < NEAR_THE_END;
  draw();
  view.scrollTop = follow ? view.scrollHeight : scrollTop;
}

// Draws anew because of a button there: whoever came to it with the keyboard stays there, or beside it.
function showAround(button) {
  const buttons = () => [...element("conversation").querySelectorAll("button")];
  const at = buttons().indexOf(button);
  showConversation();
  const again = buttons()[at];
  (again?.disabled ? again.closest(".actions").querySelector("button:not(:disabled)") : again)?.focus();
}

function welcome() {
  const { mode } = state;
  const examples = [1, 2, 3].map((number) => t(`${mode}Example${number}`));
  return make(
    "div",
    { className: "welcome" },
    make("img", { src: "static/icon.svg", alt: "" }),
    make("h2", {}, t(`${mode}Welcome`)),
    make("p", {}, t(`${mode}WelcomeMore`)),
    make(
      "div",
      { className: "examples" },
      ...examples.map((text) =>
        make("button", { type: "button", className: "quiet", onclick: () => does.example(text) }, text.trim()),
      ),
    ),
  );
}

const action = (word, onclick, more = {}) => make("button", { type: "button", className: "plain", onclick, ...more }, t(word));

// The button says for a moment that it did it.
const copyAction = (text) =>
  action("copy", async ({ currentTarget }) => {
    await copy(text());
    currentTarget.textContent = t("copied");
    setTimeout(() => {
      currentTarget.textContent = t("copy");
    }, 1500);
  });

function exchangeNode(exchange) {
  const version = currentVersion(exchange);
  const answers =
    version && make("div", { className: "samples" }, ...version.samples.map((sample) => sampleNode(exchange, version, sample)));
  return make("article", { className: "exchange" }, asked(exchange), answers);
}

function asked(exchange) {
  const box = make("div", { className: "asked" });
  const edit = action("edit", () => {
    if (!isRunning()) box.replaceWith(editor(exchange));
  });
  box.append(
    make("h2", { className: "hidden" }, t("you")),
    make("div", { className: "message" }, exchange.prompt),
    make(
      "div",
      { className: "actions" },
      edit,
      copyAction(() => exchange.prompt),
    ),
  );
  return box;
}

function editor(exchange) {
  const area = make("textarea", { rows: 3, value: exchange.prompt, "aria-label": t("editHint") });
  const send = () => {
    if (area.value.trim()) does.edit(exchange, area.value);
  };
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) send();
    if (event.key === "Escape") showAround(area.nextSibling.firstChild);
  });
  queueMicrotask(() => area.focus());
  return make(
    "div",
    { className: "asked editor" },
    area,
    make(
      "div",
      { className: "actions" },
      action("cancel", (event) => showAround(event.currentTarget)),
      make("button", { type: "button", onclick: send }, t("send")),
    ),
  );
}

function sampleNode(exchange, version, sample) {
  const message = make("div", { className: "message" });
  const actions = make("div", { className: "actions" });
  const number = version.samples.indexOf(sample) + 1;
  const title = version.samples.length > 1 ? t("answer", { number }) : t("assistant");
  const node = make(
    "section",
    { className: "sample", "aria-label": title },
    make("h2", { className: "hidden" }, title),
    message,
    actions,
  );
  node.classList.toggle("chosen", state.mode === "chat" && version.samples[version.chosen] === sample);
  const more = writer(exchange, version, sample, message);
  const update = () => {
    const writing = sample.finish === null;
    more();
    node.classList.toggle("writing", writing);
    node.setAttribute("aria-busy", String(writing));
    if (!writing || !actions.childElementCount)
      actions.replaceChildren(...(writing ? [] : sampleActions(exchange, version, sample)));
  };
  drawn.set(sample, update);
  update();
  return node;
}

// Returns what adds the text that is new since the last time: an answer of a thousand tokens is not drawn a thousand times.
function writer(exchange, version, sample, message) {
  if (probabilities()) return tokenWriter(exchange, version, sample, message);
  if (state.mode === "chat") {
    message.classList.add("markdown");
    const show = markdownView(message);
    return () => show(sample.text);
  }
  const rest = document.createTextNode("");
  message.append(make("span", { className: "before" }, exchange.prompt), rest);
  return () => {
    rest.data = sample.text;
  };
}

// Token by token, and as it was written: a token is no Markdown.
function tokenWriter(exchange, version, sample, message) {
  const before = state.mode === "complete" ? [make("span", { className: "before" }, exchange.prompt)] : [];
  const rest = document.createTextNode("");
  const group = make("span", { role: "group", "aria-label": t("tokens") });
  moveByKeys(group);
  message.append(...before, group, rest);
  let count = 0;
  return () => {
    const { list } = sample.segments;
    if (list.length < count) {
      group.replaceChildren();
      count = 0;
    } // it began again
    for (; count < list.length; count += 1) group.append(token(exchange, version, sample, count));
    if (group.firstChild && !group.querySelector("[tabindex='0']")) group.firstChild.tabIndex = 0;
    rest.data = sample.segments.rest(sample.text);
  };
}

function token(exchange, version, sample, index) {
  const choose = version.source.values.response_format
    ? null
    : (tokens, text) => does.branch(exchange, version, sample, index, tokens, text);
  return tokenNode(sample.segments.list[index], choose);
}

function sampleActions(exchange, version, sample) {
  const last = exchange === exchanges().at(-1);
  const several = version.samples.length > 1 && state.mode === "chat"; // only a chat goes on with one of them
  const whole = () => (state.mode === "complete" ? exchange.prompt : "") + sample.text;
  const chosen = version.samples[version.chosen] === sample;
  const choose = ({ currentTarget }) => {
    version.chosen = version.samples.indexOf(sample);
    showAround(currentTarget);
  };
  const first = sample === version.samples[0];
  return [
    exchange.versions.length > 1 && first && versions(exchange),
    copyAction(whole),
    first && action("regenerate", () => does.regenerate(exchange)),
    last &&
      ["length", "stopped", "broken"].includes(sample.finish) &&
      !version.source.values.response_format &&
      action("goOn", () => does.goOn(version, sample)),
    several && action(chosen ? "chosen" : "choose", choose, { "aria-pressed": String(chosen), disabled: chosen }),
    make("span", { className: "how-ended" }, t(ENDINGS[sample.finish])),
  ].filter(Boolean);
}

function versions(exchange) {
  const turn =
    (step) =>
    ({ currentTarget }) => {
      if (isRunning()) return;
      exchange.current += step;
      showAround(currentTarget);
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
