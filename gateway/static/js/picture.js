// An answer's probabilities as one HTML file that needs nothing else: tinted tokens, their alternatives, a legend.

import { action } from "./buttons.js";
import { download, exportedName } from "./export.js";
import { language, percent, t } from "./i18n.js";
import { decoded, probability, segmentProbability } from "./segments.js";
import { tint } from "./tokens.js";

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escaped = (text) => text.replace(/[&<>"]/g, (sign) => ESCAPES[sign]);

const STYLE = `:root { color-scheme: light dark; }
body { max-width: 46rem; margin: 2.5rem auto; padding: 0 1rem; font: 16px/1.75 system-ui, sans-serif; }
header, footer { color: light-dark(#51666d, #9cb1b7); font-size: 0.85rem; }
main { white-space: pre-wrap; overflow-wrap: anywhere; margin: 1.2rem 0; }
.before { opacity: 0.6; }
[data-p] { border-radius: 0.2em; padding-block: 0.12em; }
main [data-p]:hover { outline: 1.5px solid light-dark(#0b6e7f, #58c3d3); }
footer i { display: inline-block; width: 1.3rem; height: 0.8rem; }
`;
const tints = () => {
  const colours = getComputedStyle(document.documentElement);
  return [0, 1, 2, 3, 4, 5].map((number) => `[data-p="${number}"] { background: ${colours.getPropertyValue(`--p${number}`)}; }\n`).join("");
};

// One a line.
const alternatives = ({ tokens }) =>
  tokens
    .flatMap(({ top }) => top)
    .map((other) => `${percent(probability(other))}  ${decoded(other.bytes) ?? "…"}`)
    .join("\n");

function tokenHtml(segment) {
  const share = segmentProbability(segment);
  const title = `${segment.text} ${percent(share)}\n\n${alternatives(segment)}`;
  return `<span data-p="${tint(share)}" title="${escaped(title)}">${escaped(segment.text)}</span>`;
}

export function pictureOf({ text, segments }, { model, prompt }) {
  const scale = [5, 4, 3, 2, 1, 0].map((number) => `<i data-p="${number}"></i>`).join("");
  return `<!doctype html>
<html lang="${language}">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(model)} · Tidegate</title>
<style>
${STYLE}${tints()}</style>
<header>${escaped(model)} · ${new Date().toLocaleString(language)}</header>
<main><p class="before">${escaped(prompt)}</p>${segments.list.map(tokenHtml).join("")}${escaped(segments.rest(text))}</main>
<footer>${t("legendSure")} ${scale} ${t("legendUnsure")}</footer>
</html>
`;
}

export const pictureAction = (sample, exchange, version) =>
  action("savePicture", () => {
    const page = pictureOf(sample, { model: version.source.model, prompt: exchange.prompt });
    download(exportedName("html"), "text/html", page);
  });
