// The panel's parameters: a control for each that the server has, and the values that were chosen.

import { bounds, canShow, control, CONVERT } from "./controls.js";
import { element, make } from "./dom.js";
import { known, t } from "./i18n.js";
import { alternativesName, field, names } from "./schema.js";
import { store, stored } from "./storage.js";

const FIRST = ["temperature", "top_p", "max_tokens"];
const ADVANCED = {
  groupSampling: ["top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"],
  groupLength: ["min_tokens", "stop", "ignore_eos"],
  groupOutput: ["n", "response_format", "top_logprobs", "logprobs"],
};

let values = stored("parameters") ?? {}; // only those that differ from the default
let onChange = () => {};
let unfolded = false; // the advanced ones

export function setUpParameters(changed) {
  onChange = changed;
}

// As they go into a request: {values, alternatives}.
export function parameters() {
  const chosen = Object.keys(values).filter((name) => field(name) && name !== alternativesName());
  const sent = chosen.map((name) => [name, CONVERT[name]?.(values[name]) ?? values[name]]);
  return { values: Object.fromEntries(sent), alternatives: values[alternativesName()] ?? field(alternativesName()).fallback };
}

export const chosenValues = () => ({ ...values });

export function setValues(chosen) {
  values = { ...chosen };
  changed();
  showParameters();
}

// The first control with a value that the server would refuse; it says so itself.
export const firstWrong = () => element("parameters").querySelector("[aria-invalid=true]");

// The control of the parameter that the server refused, if it is one of these.
export function refused(name) {
  const input = element(`parameter-${name}`);
  input?.setAttribute("aria-invalid", "true");
  input?.addEventListener("input", () => input.removeAttribute("aria-invalid"), { once: true });
  return input;
}

function changed() {
  store("parameters", values);
  showCount();
  onChange();
}

function set(name, value) {
  if (value === field(name).fallback || value === null || value === "") delete values[name];
  else values[name] = value;
  changed();
}

const shownOf = (members) => members.filter((name) => field(name) && canShow(name, field(name)));

export function showParameters() {
  const placed = [...FIRST, ...Object.values(ADVANCED).flat()];
  const groups = Object.entries({ ...ADVANCED, groupMore: names().filter((name) => !placed.includes(name)) })
    .map(([title, members]) => [title, shownOf(members)])
    .filter(([, members]) => members.length)
    .map(([title, members]) =>
      make("fieldset", { className: "group" }, make("legend", {}, t(title)), make("div", {}, ...members.map(box))),
    );
  const toggled = ({ currentTarget }) => {
    unfolded = currentTarget.open;
  };
  const summary = make("summary", {}, t("advanced"), make("small", { id: "advanced-changed" }));
  const advanced = make("details", { id: "advanced", open: unfolded, ontoggle: toggled }, summary, ...groups);
  element("parameters").replaceChildren(...shownOf(FIRST).map(box), ...(groups.length ? [advanced] : []));
  showCount();
}

// How many of the advanced ones are set: they may be folded away.
function showCount() {
  const count = shownOf(Object.values(ADVANCED).flat()).filter((name) => name in values).length;
  const node = element("advanced-changed");
  if (node) node.textContent = count ? t("changedCount", { count }) : "";
}

// A parameter that this page has no words for shows the server's.
function box(name) {
  const about = field(name);
  const id = `parameter-${name}`;
  const title = known(`${name}Title`) ? t(`${name}Title`) : name;
  const sentence = known(`${name}Hint`) ? t(`${name}Hint`, { count: about.most }) : about.description;
  const wrong = make("p", { className: "wrong", id: `${id}-wrong`, hidden: true });
  const hint = make("p", { className: "hint", id: `${id}-hint` }, sentence);
  if (["integer", "number"].includes(about.type)) hint.append(" ", make("b", {}, bounds(about)));
  const mark = () => node.classList.toggle("changed", name in values);
  const chosen = (value) => {
    set(name, value);
    mark();
  };
  const node = make(
    "div",
    { className: "control", "data-parameter": name },
    ...control({ name, id, about, title, wrong, value: values[name], set: chosen }),
    wrong,
    hint,
  );
  mark();
  return node;
}
