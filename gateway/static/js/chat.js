// Shows the conversation: its exchanges, or a welcome where there are none yet.

import { answersNode } from "./answer.js";
import { currentVersion, exchanges, state } from "./conversation.js";
import { element, make } from "./dom.js";
import { t } from "./i18n.js";
import { notebookNode } from "./notebook.js";
import { questionNode } from "./question.js";
import { close } from "./tokens.js";

const DRAW_EVERY = 40; // ms: each drawing lays the whole answer out again, so not each token has one
const NEAR_THE_END = 80; // px: whoever scrolled up further stays there

const drawn = new Map(); // sample → what updates its node
const changed = new Set(); // samples with more than is shown
let does = {}; // changed, edit, regenerate, goOn, branch, example: what main.js does when they are asked for

let view = null; // what the nodes of a conversation need

export function setUpChat(actions) {
  does = actions;
  view = { does, drawn, redraw: showAround };
}

export function showConversation({ toEnd = false } = {}) {
  const list = exchanges();
  scrolled(toEnd, () => {
    drawn.clear();
    changed.clear();
    close();
    element("conversation").replaceChildren(...nodes(list));
    element("legend").hidden = !element("probabilities").checked || !list.length;
  });
}

function nodes(list) {
  if (state.mode === "complete") return [notebookNode(view)];
  return list.length ? list.map(exchangeNode) : [welcome()];
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
  does.changed();
  showConversation();
  const again = buttons()[at];
  (again?.disabled ? again.closest(".actions, .footer, .ending").querySelector("button:not(:disabled)") : again)?.focus();
}

function welcome() {
  const examples = [1, 2, 3].map((number) => t(`chatExample${number}`));
  return make(
    "div",
    { className: "welcome" },
    make("img", { src: "static/icon.svg", alt: "" }),
    make("h2", {}, t("chatWelcome")),
    make("p", {}, t("chatWelcomeMore")),
    make(
      "div",
      { className: "examples" },
      ...examples.map((text) =>
        make("button", { type: "button", className: "quiet", onclick: () => does.example(text) }, text.trim()),
      ),
    ),
  );
}

function exchangeNode(exchange) {
  const version = currentVersion(exchange);
  return make(
    "article",
    { className: "exchange" },
    questionNode(exchange, view),
    version && answersNode(exchange, version, view),
  );
}
