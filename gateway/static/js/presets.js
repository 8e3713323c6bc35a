// A few settings that go well together; each leaves what it does not name at the server's default.

import { element, make } from "./dom.js";
import { t } from "./i18n.js";
import { chosenValues, setValues } from "./parameters.js";

const PRESETS = {
  presetDefault: {},
  presetExact: { temperature: 0 },
  presetCreative: { temperature: 1, top_k: 0, top_p: 0.95 },
  presetWild: { temperature: 1.4, top_k: 0, top_p: 1, min_p: 0.02 },
  presetFresh: { repetition_penalty: 1.15, frequency_penalty: 0.3 },
};
// How long an answer is, how many there are and what is shown of them is no matter of taste: a preset leaves it as it is.
const KEPT = [
  "max_tokens",
  "min_tokens",
  "n",
  "seed",
  "stop",
  "top_logprobs",
  "logprobs",
  "response_format",
  "logit_bias",
  "ignore_eos",
];

const split = (values, kept) => Object.fromEntries(Object.entries(values).filter(([name]) => KEPT.includes(name) === kept));
const same = (a, b) => Object.keys({ ...a, ...b }).every((name) => a[name] === b[name]);

export function showPresets() {
  const now = split(chosenValues(), false);
  const active = Object.keys(PRESETS).find((name) => same(PRESETS[name], now));
  const focused = document.activeElement?.dataset?.preset;
  element("presets").replaceChildren(
    ...Object.entries(PRESETS).map(([name, values]) =>
      make(
        "button",
        {
          type: "button",
          className: "quiet",
          "data-preset": name,
          "aria-pressed": String(name === active),
          title: t(`${name}Hint`),
          onclick: () => setValues({ ...split(chosenValues(), true), ...values }),
        },
        t(name),
      ),
    ),
    make("p", { className: "hint" }, active ? t(`${active}Hint`) : ""),
  );
  if (focused) element("presets").querySelector(`[data-preset=${focused}]`).focus();
}
