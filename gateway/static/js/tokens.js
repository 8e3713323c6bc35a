// An answer token by token, tinted by probability, and the list of each token's alternatives.

import { element, make } from "./dom.js";
import { percent, t } from "./i18n.js";
import { decoded, probability, segmentProbability } from "./segments.js";

const TINTS = [0.05, 0.15, 0.35, 0.6, 0.9]; // data-p 0 is below the first, 5 above the last
const LINGER = 250; // ms for the pointer to travel from a token to its list

let current = null; // {node, top}: the token whose list is shown, and where it stood then
let closing = null;

export const tint = (share) => TINTS.filter((bound) => share >= bound).length;
const visible = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣");
const spoken = (text) => text.trim() || visible(text);

// `choose(tokens, text)`: somebody clicked an alternative, with which the segment has these tokens and reads `text`. Null: not
// possible here.
export function tokenNode(segment, choose) {
  const share = segmentProbability(segment);
  const node = make(
    "span",
    {
      className: "token",
      role: "button",
      tabIndex: -1,
      "data-p": tint(share),
      "aria-haspopup": "dialog",
      "aria-label": t("tokenLabel", { token: spoken(segment.text), percent: percent(share) }),
      onpointerenter: (event) => {
        if (event.pointerType === "mouse") show(node, segment, choose);
      },
      onpointerleave: closeSoon,
      onfocus: () => show(node, segment, choose),
      onblur: closeSoon,
      onclick: () => {
        node.focus();
        show(node, segment, choose);
      },
    },
    segment.text,
  );
  return node;
}

// Arrow keys move among the tokens of `group`, which are one stop of the Tab key; Enter goes into the list, Escape leaves it.
export function moveByKeys(group) {
  group.addEventListener("keydown", (event) => {
    const tokens = [...group.querySelectorAll(".token")];
    const at = tokens.indexOf(document.activeElement);
    if (at < 0) return;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (to !== undefined && tokens[to]) {
      for (const token of [tokens[at], tokens[to]]) token.tabIndex = token === tokens[to] ? 0 : -1;
      tokens[to].focus();
    } else if (["Enter", " ", "ArrowDown"].includes(event.key)) {
      element("alternatives").querySelector("button:not(:disabled)")?.focus();
    } else return;
    event.preventDefault();
  });
}

const same = (one, other) => one.bytes.join() === other.bytes.join();

function show(node, segment, choose) {
  clearTimeout(closing);
  if (current?.node === node) return;
  current?.node.classList.remove("open");
  current = { node, top: node.getBoundingClientRect().top };
  node.classList.add("open");
  element("alternatives").replaceChildren(...segment.tokens.flatMap((token, index) => part(segment, index, token, choose)));
  place(node);
}

function part(segment, index, token, choose) {
  const before = segment.tokens.slice(0, index);
  const drawnFromOutside = !token.top.some((other) => same(other, token)); // sampling took one that is not among the top ones
  const top = drawnFromOutside ? [...token.top, token] : token.top;
  const alone = segment.tokens.length === 1;
  const words = {
    token: visible(segment.text),
    percent: percent(probability(token)),
    part: index + 1,
    parts: segment.tokens.length,
  };
  const head = make("p", {}, t(alone ? (choose ? "tokenHead" : "tokenHeadForm") : "partHead", words));
  return [head, ...top.map((other) => alternative(other, before, token, choose))];
}

function alternative(other, before, token, choose) {
  const taken = same(other, token);
  const text = decoded([...before, other].flatMap((one) => one.bytes));
  const name = text === null ? other.bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ") : visible(text);
  const share = probability(other);
  const label = t("alternativeLabel", { token: text === null ? name : spoken(text), percent: percent(share) });
  return make(
    "button",
    {
      type: "button",
      className: "alternative",
      disabled: taken || text === null || !choose,
      title: text === null ? t("halfCharacter") : "",
      "aria-current": taken ? "true" : null,
      "aria-label": taken ? null : label,
      onclick: () => {
        close();
        choose([...before, { ...other, top: token.top }], text);
      },
    },
    make("code", {}, name),
    make("span", {}, percent(share)),
    make("meter", { min: 0, max: 1, value: share, "aria-hidden": "true" }),
  );
}

function place(node) {
  const list = element("alternatives");
  list.hidden = false;
  const [at] = node.getClientRects(); // of a token that is broken over two lines: the first
  const box = list.getBoundingClientRect();
  const above = at.bottom + box.height + 8 > innerHeight && at.top > box.height + 8;
  list.style.left = `${Math.max(8, Math.min(at.left, innerWidth - box.width - 8))}px`;
  list.style.top = `${above ? at.top - box.height - 4 : Math.min(at.bottom + 4, Math.max(8, innerHeight - box.height - 8))}px`;
}

function closeSoon() {
  clearTimeout(closing);
  closing = setTimeout(() => {
    if (!element("alternatives").matches(":hover, :focus-within") && current?.node !== document.activeElement) close();
  }, LINGER);
}

export function close() {
  clearTimeout(closing);
  current?.node.classList.remove("open");
  current = null;
  element("alternatives").hidden = true;
}

export function watchList() {
  const list = element("alternatives");
  list.addEventListener("pointerenter", () => clearTimeout(closing));
  list.addEventListener("pointerleave", closeSoon);
  list.addEventListener("focusout", closeSoon);
  list.addEventListener("keydown", (event) => {
    const buttons = [...list.querySelectorAll("button:not(:disabled)")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    buttons.at((buttons.indexOf(document.activeElement) + step) % buttons.length).focus();
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !current) return;
    const { node } = current;
    const inside = list.contains(document.activeElement);
    close();
    if (inside) {
      node.focus();
      close();
    }
  });
  document.addEventListener("pointerdown", (event) => {
    if (current && !list.contains(event.target) && !current.node.contains(event.target)) close();
  });
  element("conversation").addEventListener("scroll", () => {
    if (current && current.node.getBoundingClientRect().top !== current.top) close();
  });
}
