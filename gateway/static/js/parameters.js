// The panel's parameters: a control for each that the server has, and the values that were chosen.

import { bounds, canShow, control, CONVERT } from "./controls.js";
import { element, make } from "./dom.js";
import { known, t } from "./i18n.js";
import { alternativesName, field, names } from "./schema.js";
import { store, stored } from "./storage.js";

const GROUPS = {
  groupChoice: ["temperature", "top_k", "top_p", "min_p", "seed", "n", "top_logprobs", "logprobs"],
  groupLength: ["max_tokens", "min_tokens", "stop", "ignore_eos"],
  groupRepetition: ["presence_penalty", "frequency_penalty", "repetition_penalty"],
  groupForm: ["response_format", "logit_bias"],
};

let values = stored("parameters") ?? {}; // only those that differ from the default
let onChange = () => {};

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
  onChange();
}

function set(name, value) {
  if (value === field(name).fallback || value === null || value === "") delete values[name];
  else values[name] = value;
  changed();
}

export function showParameters() {
  const placed = Object.values(GROUPS).flat();
  const groups = Object.entries({ ...GROUPS, groupMore: names().filter((name) => !placed.includes(name)) });
  element("parameters").replaceChildren(
    ...groups.flatMap(([title, members]) => {
      const controls = members.filter((name) => field(name) && canShow(name, field(name))).map(box);
      return controls.length
        ? [make("fieldset", { className: "group" }, make("legend", {}, t(title)), make("div", {}, ...controls))]
        : [];
    }),
  );
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
