// The kinds of control that a parameter can have. Each calls `set(value)` when what it has is good, else says what is wrong.

import { make } from "./dom.js";
import { known, language, t } from "./i18n.js";

const SLIDER_LENGTH = 25; // a range up to here gets a slider, too
const FORMS = {
  text: "formText",
  json_object: "formObject",
  json_schema: "formSchema",
  regex: "formRegex",
  grammar: "formGrammar",
};
const WITHOUT_DETAILS = ["text", "json_object"];

const CONTROLS = { stop: stops, logit_bias: biases, response_format: form };

// `value`: what was chosen, undefined for the default; `fallback`: the default. Returns the nodes.
export function control(parameter) {
  const kind = CONTROLS[parameter.name] ?? (parameter.about.type === "boolean" ? flag : number);
  return kind(parameter);
}

export const canShow = (name, { type }) => name in CONTROLS || ["integer", "number", "boolean"].includes(type);

export const shown = (value) =>
  (typeof value === "number"
    ? new Intl.NumberFormat(language, { maximumFractionDigits: 3 }).format(value)
    : String(value)
  ).replace("-", "−");

export function bounds({ low, high, fallback }) {
  if (high === Number.MAX_SAFE_INTEGER) return t("bounds", { low: "−2⁵³ + 1", high: "2⁵³ − 1" });
  const words = { low: shown(low), high: shown(high), default: shown(fallback) };
  return t(["number", "boolean"].includes(typeof fallback) ? "boundsDefault" : "bounds", words);
}

function complain(input, wrong, sentence) {
  wrong.textContent = sentence;
  wrong.hidden = !sentence;
  if (sentence) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

const label = (id, title) => make("label", { htmlFor: id }, title);
const describe = (id) => ({ id, "aria-describedby": `${id}-hint ${id}-wrong` });
const lines = (text) => text.split("\n").filter((line) => line !== "");

function number({ name, id, about, title, wrong, value, set }) {
  const { type, low, high, fallback } = about;
  const whole = type === "integer";
  const input = make("input", { ...describe(id), type: "number", min: low, max: high, step: whole ? 1 : "any" });
  input.placeholder = known(`${name}Empty`) && (fallback ?? null) === null ? t(`${name}Empty`) : "";
  input.value = value ?? fallback ?? "";
  const slider =
    high - low <= SLIDER_LENGTH &&
    make("input", { type: "range", min: low, max: high, step: whole ? 1 : 0.01, "aria-label": title });
  if (slider) slider.value = input.value;
  const take = (chosen, sentence) => {
    complain(input, wrong, sentence);
    if (!sentence) set(chosen);
  };
  input.addEventListener("input", () => {
    const empty = input.value === "" && !input.validity.badInput;
    take(empty ? null : input.valueAsNumber, empty ? "" : outside(input.valueAsNumber, about, title));
    if (slider) slider.value = empty ? fallback : input.value;
  });
  if (!slider) return [label(id, title), input];
  slider.addEventListener("input", () => {
    input.value = slider.value;
    take(slider.valueAsNumber, "");
  });
  return [label(id, title), make("div", { className: "pair" }, slider, input)];
}

function outside(value, { type, low, high }, name) {
  const words = { name, low: shown(low), high: shown(high) };
  if (Number.isNaN(value)) return t("notNumber", words);
  if (type === "integer" && !Number.isInteger(value)) return t("notInteger", words);
  return value < low || value > high ? t("outside", words) : "";
}

function flag({ id, about, title, value, set }) {
  const input = make("input", { ...describe(id), type: "checkbox", checked: value ?? about.fallback });
  input.addEventListener("input", () => set(input.checked));
  return [make("label", { className: "toggle", htmlFor: id }, input, title)];
}

// A text that is kept as it is written; `check` says what is wrong with it.
function text({ id, title, wrong, value, set }, check) {
  const area = make("textarea", { ...describe(id), className: "raw", rows: 2, value: value ?? "", spellcheck: false });
  area.addEventListener("input", () => {
    const sentence = check(area.value);
    complain(area, wrong, sentence);
    if (!sentence) set(area.value);
  });
  return [label(id, title), area];
}

function stops(parameter) {
  const { most } = parameter.about;
  return text(parameter, (written) => (lines(written).length > most ? t("stopWrong", { count: most }) : ""));
}

const BIAS = /^\s*(0|[1-9][0-9]{0,8})\s*[:=]\s*([-−]?[0-9]+(?:\.[0-9]+)?)\s*$/;

function bias(line) {
  const found = BIAS.exec(line);
  return found && [found[1], Number(found[2].replace("−", "-"))];
}

function biases(parameter) {
  const { low, high, most } = parameter.about;
  const good = (found) => found && found[1] >= low && found[1] <= high;
  const sentence = t("logit_biasWrong", { low: shown(low), high: shown(high), count: most });
  return text(parameter, (written) => (lines(written).length <= most && lines(written).map(bias).every(good) ? "" : sentence));
}

function form({ id, title, wrong, value, set }) {
  const now = value ?? { type: "text", details: "" };
  const kind = make("select", describe(id), ...Object.entries(FORMS).map(([type, word]) => new Option(t(word), type)));
  const details = make("textarea", {
    className: "raw",
    rows: 4,
    value: now.details,
    spellcheck: false,
    "aria-label": t("formDetails"),
  });
  kind.value = now.type;
  const show = () => {
    details.hidden = WITHOUT_DETAILS.includes(kind.value);
  };
  const take = () => {
    show();
    const sentence = wrongForm(kind.value, details.value);
    complain(details, wrong, sentence);
    if (!sentence) set(kind.value === "text" ? null : { type: kind.value, details: details.value });
  };
  show();
  for (const input of [kind, details]) input.addEventListener("input", take);
  return [label(id, title), kind, details];
}

function wrongForm(kind, details) {
  if (WITHOUT_DETAILS.includes(kind)) return "";
  if (!details.trim()) return t("formEmpty");
  if (kind !== "json_schema") return "";
  try {
    JSON.parse(details);
    return "";
  } catch (error) {
    return t("formWrong", { message: error.message });
  }
}

// From what the controls keep to what a request says.
export const CONVERT = {
  stop: lines,
  logit_bias: (written) => Object.fromEntries(lines(written).map(bias)),
  response_format({ type, details }) {
    if (type === "json_schema") return { type, json_schema: { name: "answer", schema: JSON.parse(details) } };
    return type === "json_object" ? { type } : { type, [type]: details };
  },
};
