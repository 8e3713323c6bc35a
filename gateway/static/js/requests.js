// The bodies of requests: an exchange as the person asked it, and an answer that has to go on where it ended.

import { ask } from "./api.js";
import { messages, state } from "./conversation.js";
import { parameters } from "./parameters.js";
import { field, mostAlternatives } from "./schema.js";
import { fromChat, fromCompletion } from "./segments.js";

// All that a request is made of, as it is at this moment.
export function sourceOf(prompt, exchange = null) {
  const { mode, model } = state;
  const said = mode === "chat" ? { messages: messages(prompt, exchange) } : { prompt };
  return { mode, model, said, ...parameters() };
}

export const answersOf = (source) => source.values.n ?? 1;
// The most tokens of an answer; null: as many as the context holds.
export const limitOf = (source) => source.values.max_tokens ?? null;

export function fresh({ mode, model, said, values, alternatives }) {
  const chat = mode === "chat";
  const logprobs = chat ? { logprobs: true, top_logprobs: alternatives } : { logprobs: alternatives };
  const length = chat ? {} : { max_tokens: field("max_tokens").high }; // without it /v1/completions writes 16
  const body = { model, ...said, ...length, ...values, stream: true, stream_options: { include_usage: true }, ...logprobs };
  return { path: chat ? "/v1/chat/completions" : "/v1/completions", body };
}

// `samples`: those that are open. What they have is part of the prompt now; a chat's prompt is known as tokens only.
export async function goingOn(source, samples, signal) {
  const { model, said, values, alternatives } = source;
  const limit = limitOf(source);
  const left = limit && Math.max(1, ...samples.map((sample) => limit - sample.spent));
  const { n, min_tokens = 0, ...rest } = values;
  const least = Math.min(left ?? Infinity, Math.max(0, min_tokens - Math.min(...samples.map((sample) => sample.spent))));
  const prompt = said.messages
    ? await asTokens(model, said.messages, samples, signal)
    : samples.map((sample) => said.prompt + sample.text);
  const logprobs = Math.min(alternatives, mostAlternatives("CompletionBody"));
  const body = {
    model,
    prompt,
    ...rest,
    max_tokens: left ?? field("max_tokens").high,
    ...(least && { min_tokens: least }),
    stream: true,
    stream_options: { include_usage: true },
    logprobs,
  };
  return { path: "/v1/completions", body };
}

export const lengthOf = ({ model, said }) => ask("/tokenize", { model, ...said });

async function asTokens(model, said, samples, signal) {
  const { tokens } = await ask("/tokenize", { model, messages: said }, signal);
  return Promise.all(
    samples.map(async ({ text }) => {
      const written = await ask("/tokenize", { model, prompt: text, add_special_tokens: false }, signal);
      return [...tokens, ...written.tokens];
    }),
  );
}

// An event of either route as {usage, pieces: [{index, text, tokens, finish}]}.
export function read(event) {
  const pieces = event.choices.map((choice) => {
    const tokens = choice.delta ? fromChat(choice.logprobs) : fromCompletion(choice.logprobs);
    return { index: choice.index, text: choice.delta?.content ?? choice.text ?? "", tokens, finish: choice.finish_reason };
  });
  return { usage: event.usage, pieces };
}
