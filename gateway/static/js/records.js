// A conversation as plain data, for the browser's database and for files, and back. A file may hold anything: all is checked.

import { newId } from "./conversation.js";
import { Segments } from "./segments.js";

const FORMAT = "tidegate-conversations";
const ENDINGS = ["stop", "length", "stopped", "broken"];

// `segmentsOf(sample)`: what to keep of its tokens; nothing where they are kept elsewhere.
export function packed(conversation, segmentsOf = () => undefined) {
  const sample = (one) => ({ id: one.id, text: one.text, finish: one.finish, spent: one.spent, segments: segmentsOf(one) });
  const version = ({ samples, ...rest }) => ({ ...rest, samples: samples.map(sample) });
  const exchange = (one) => ({ ...one, versions: one.versions.map(version) });
  return { ...conversation, exchanges: conversation.exchanges.map(exchange) };
}

export const fileOf = (conversations) =>
  JSON.stringify({
    format: FORMAT,
    version: 1,
    conversations: conversations.map((one) => packed(one, (sample) => sample.segments.list)),
  });

// The conversations of a file. Throws where it is none of ours.
export function fromFile(text) {
  const file = JSON.parse(text);
  check(file?.format === FORMAT && file.version === 1);
  return list(file.conversations).map((record) => ({ ...unpacked(record), revision: 0 }));
}

// `segmentsOf(sample's record)`: where its tokens are.
export function unpacked(record, segmentsOf = (sample) => sample.segments) {
  const { id, mode, title, model, system, created, updated, revision = 0, text = "", live = false } = record;
  check([id, title, model, system, text].every(isText) && [created, updated, revision].every(Number.isFinite));
  check(mode === "chat" || mode === "complete");
  const exchanges = list(record.exchanges).map((one) => exchangeOf(one, segmentsOf));
  return { id, mode, title, model, system, created, updated, revision, exchanges, text, live: Boolean(live && exchanges.length) };
}

function exchangeOf({ prompt, versions, current, after = "" }, segmentsOf) {
  check(isText(prompt) && isText(after) && (current === -1 || versions?.[current]));
  return { prompt, versions: list(versions).map((one) => versionOf(one, segmentsOf)), current, after };
}

function versionOf({ source, samples, chosen, figures = null }, segmentsOf) {
  check(source?.values && source.said && samples?.[chosen] && Object.values(figures ?? {}).every(isFigure));
  return { source, samples: list(samples).map((one) => sampleOf(one, segmentsOf(one))), chosen, figures };
}

function sampleOf({ id, text, finish, spent }, segments = []) {
  check(isText(text) && Number.isFinite(spent));
  check(list(segments).every(({ text, begin, tokens }) => isText(text) && Number.isFinite(begin) && list(tokens).every(isToken)));
  // One that was under way when the page went away is kept as far as it came.
  const ended = ENDINGS.includes(finish) ? finish : "broken";
  return { id: isText(id) ? id : newId(), text, segments: new Segments(segments), finish: ended, spent };
}

const isText = (value) => typeof value === "string";
const isFigure = (value) => value === null || Number.isFinite(value);
const isChoice = ({ bytes, logprob }) => list(bytes).every(Number.isInteger) && isFigure(logprob);
const isToken = (token) => isChoice(token) && list(token.top).every(isChoice);

function list(value) {
  check(Array.isArray(value));
  return value;
}

function check(right) {
  if (!right) throw new TypeError("not a conversation of this page");
}
