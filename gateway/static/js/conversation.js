// What was said, and nothing of how it looks.
//
//   conversation  {id, mode, title, model, system, created, updated, revision, exchanges}: `revision` counts how often it was saved;
//                 `text` and `live`: see document.js
//   exchange  {prompt, versions, current}: what somebody wrote, and each time that it was answered
//   version   {source, samples, chosen, figures}: one time; `source`: all that its request was made of; `chosen`: the index of
//             the sample that the conversation goes on with; `figures`: what it took, see figures.js
//   sample    {id, text, segments, finish, spent}: one of the n answers; finish is null while it is open; spent counts tokens

import { Segments } from "./segments.js";

const TITLE_LENGTH = 60;

export const state = { mode: "chat", model: "", system: "" };

// Not crypto.randomUUID: browsers have it only for https and localhost.
export const newId = () =>
  [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export function newConversation(mode) {
  const now = Date.now();
  return { id: newId(), mode, title: "", model: "", system: "", created: now, updated: now, revision: 0, exchanges: [], text: "", live: false };
}

// The one that is open in each mode.
const open = { chat: newConversation("chat"), complete: newConversation("complete") };

export const conversation = () => open[state.mode];
export const openConversations = () => Object.values(open);
export const exchanges = () => conversation().exchanges;
export const currentVersion = (exchange) => exchange.versions[exchange.current];
export const isEmpty = ({ exchanges, text }) => !exchanges.length && !text;

export function openConversation(one) {
  open[one.mode] = one;
}

export const titleOf = ({ title, exchanges, text }) => {
  const words = title || (exchanges[0]?.prompt ?? text).trim().replace(/\s+/g, " ");
  return words.length > TITLE_LENGTH ? `${words.slice(0, TITLE_LENGTH - 1)}…` : words;
};

export function addExchange(prompt) {
  const exchange = { prompt, versions: [], current: -1 };
  exchanges().push(exchange);
  return exchange;
}

// What was said after it does not fit any longer.
export function forgetAfter(exchange) {
  const list = exchanges();
  list.length = list.indexOf(exchange) + 1;
}

export function addVersion(exchange, source, samples) {
  const version = { source, samples, chosen: 0, figures: null };
  exchange.current = exchange.versions.push(version) - 1;
  return version;
}

// Of a version that failed or was stopped before anything was written, nothing stays.
export function dropEmpty(exchange, version) {
  if (version.samples.some(({ text, finish }) => text || !["broken", "stopped"].includes(finish))) return;
  exchange.versions = exchange.versions.filter((other) => other !== version);
  exchange.current = exchange.versions.length - 1;
}

export const newSample = () => ({ id: newId(), text: "", segments: new Segments(), finish: null, spent: 0 });

// The messages before `prompt` and itself; `until`: the exchange that it belongs to, if it was said before.
export function messages(prompt, until = null) {
  const list = exchanges();
  const before = until ? list.slice(0, list.indexOf(until)) : list;
  const turns = before.flatMap((exchange) => {
    const version = currentVersion(exchange);
    const answer = version?.samples[version.chosen].text;
    return answer
      ? [
          { role: "user", content: exchange.prompt },
          { role: "assistant", content: answer },
        ]
      : [];
  });
  const system = state.system.trim() ? [{ role: "system", content: state.system.trim() }] : [];
  return [...system, ...turns, { role: "user", content: prompt }];
}

// A sample as far as its segment `index`, where `tokens` stand instead, which read `text`: the start of another answer.
export function branched(sample, index, text, tokens) {
  const { list } = sample.segments;
  const start = sample.text.slice(0, list[index].begin) + text;
  const segments = new Segments();
  segments.extend([...list.slice(0, index).flatMap((segment) => segment.tokens), ...tokens], start, true);
  return { ...newSample(), text: start, segments };
}
