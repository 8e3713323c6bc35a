// An answer's Markdown as nodes. HTML in it stays text, links open elsewhere, images are not loaded.

import MarkdownIt from "../vendor/markdown-it.js";
import { copy, make } from "./dom.js";
import { t } from "./i18n.js";

const SCHEMES = /^(https?:|mailto:)/i;
const COPIED_FOR = 1500; // ms

const parser = new MarkdownIt({ html: false, linkify: true, breaks: true }).disable("image");
parser.validateLink = (address) => SCHEMES.test(address);
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false }); // "model.py" is no address
parser.core.ruler.push("page", (found) => found.tokens.forEach(adapt));

function adapt(token) {
  token.children?.forEach(adapt);
  if (token.type === "link_open") for (const pair of [["target", "_blank"], ["rel", "noopener noreferrer"]]) token.attrSet(...pair);
  const style = token.attrGet("style"); // a column's alignment; the page's policy allows no style attribute
  if (!style) return;
  token.attrs = token.attrs.filter(([name]) => name !== "style");
  token.attrSet("class", style.replace("text-align:", "align-"));
}

// Returns what shows a text in `target`. While an answer grows, only its last block changes: the others keep their nodes.
export function markdownView(target) {
  let shown = []; // [{html, node}], one for each block
  return (text) => {
    const blocks = blocksOf(text);
    let same = 0;
    while (same < blocks.length && shown[same]?.html === blocks[same]) same += 1;
    for (const { node } of shown.splice(same)) node.remove();
    for (const html of blocks.slice(same)) {
      const node = nodeOf(html);
      target.append(node);
      shown.push({ html, node });
    }
  };
}

// The HTML of each block at the top level.
function blocksOf(text) {
  const environment = {};
  const tokens = parser.parse(text, environment);
  const blocks = [];
  let start = 0;
  tokens.forEach((token, index) => {
    if (token.level || token.nesting > 0) return;
    blocks.push(parser.renderer.render(tokens.slice(start, index + 1), parser.options, environment));
    start = index + 1;
  });
  return blocks;
}

function nodeOf(html) {
  const node = make("div", { className: "block", innerHTML: html }); // safe: the parser escapes whatever it does not write itself
  for (const pre of node.querySelectorAll("pre")) pre.replaceWith(codeBlock(pre));
  for (const table of node.querySelectorAll("table")) {
    const frame = make("div", { className: "table", tabIndex: 0 });
    table.replaceWith(frame);
    frame.append(table);
  }
  return node;
}

function codeBlock(pre) {
  const code = pre.firstElementChild;
  const language = /language-(\S+)/.exec(code.className)?.[1] ?? "";
  const button = make("button", { type: "button", className: "plain" }, t("copyCode"));
  button.addEventListener("click", async () => {
    await copy(code.textContent.replace(/\n$/, ""));
    button.textContent = t("copied");
    setTimeout(() => (button.textContent = t("copyCode")), COPIED_FOR);
  });
  pre.tabIndex = 0; // it may be wider than its frame
  return make("div", { className: "code" }, make("div", { className: "code-head" }, make("span", {}, language), button), pre.cloneNode(true));
}
