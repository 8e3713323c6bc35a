// The text of Complete: one document. The last generation is a part of it, until somebody edits it.
//
// A document is a conversation with two fields more: `text`, and `live`: the last exchange is a part of the text, which is then
// the exchange's prompt, the chosen answer and `after`, what stands behind it.

import { conversation, currentVersion, exchanges } from "./conversation.js";

// A text area has no other line break. A model may write any.
export const lines = (text) => text.replace(/\r\n?/g, "\n");

export const generationOf = ({ live, exchanges }) => (live ? exchanges.at(-1) : null);
export const generation = () => generationOf(conversation());

export function generated(exchange) {
  const version = currentVersion(exchange);
  return version ? version.samples[version.chosen] : null;
}

export const answerOf = (exchange) => lines(generated(exchange)?.text ?? "");

export function textOf(document) {
  const exchange = generationOf(document);
  return exchange ? exchange.prompt + answerOf(exchange) + exchange.after : document.text;
}

// Somebody changed the text to this. What stands before or behind the generation may change; within it, it is theirs.
export function edit(text) {
  const document = conversation();
  const exchange = generation();
  document.updated = Date.now();
  if (exchange) {
    const answer = answerOf(exchange);
    const end = answer + exchange.after;
    const begin = exchange.prompt + answer;
    if (text.endsWith(end)) exchange.prompt = text.slice(0, text.length - end.length);
    else if (text.startsWith(begin)) exchange.after = text.slice(begin.length);
    else document.live = false;
  }
  document.text = text;
}

// A generation at this position; the one before is settled.
export function addGeneration(position) {
  const document = conversation();
  document.text = textOf(document);
  const exchange = { prompt: document.text.slice(0, position), after: document.text.slice(position), versions: [], current: -1 };
  if (!exchanges().at(-1)?.versions.length) exchanges().pop(); // it failed before anything was written
  exchanges().push(exchange);
  document.live = true;
  return exchange;
}

// The text without the last generation. The one before is live again where the text is as that one left it.
export function undo() {
  const document = conversation();
  const { prompt, after } = exchanges().pop();
  document.text = prompt + after;
  document.live = false;
  const before = { ...document, live: true };
  document.live = exchanges().length > 0 && textOf(before) === document.text;
}

// All answers to the last generation's prompt, in a row: [{version's index, sample's index}].
export const variants = ({ versions }) =>
  versions.flatMap(({ samples }, version) => samples.map((_, sample) => ({ version, sample })));

export function showVariant(exchange, { version, sample }) {
  exchange.current = version;
  exchange.versions[version].chosen = sample;
}
