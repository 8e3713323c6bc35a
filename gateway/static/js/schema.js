// Which parameters there are, their bounds and defaults: from the server's own description, /openapi.json.

import { ask } from "./api.js";
import { state } from "./conversation.js";

const BODIES = { chat: "ChatBody", complete: "CompletionBody" };
// Not for the panel: what the page itself says, what changes nothing, and a choice among answers that cannot be streamed.
const SKIPPED = [
  "model",
  "messages",
  "prompt",
  "stream",
  "stream_options",
  "max_completion_tokens",
  "modalities",
  "user",
  "safety_identifier",
  "prompt_cache_key",
  "prompt_cache_retention",
  "service_tier",
  "store",
  "metadata",
  "tools",
  "tool_choice",
  "parallel_tool_calls",
  "chat_template_kwargs",
  "best_of",
  "echo",
  "prompt_logprobs",
  "return_token_ids",
];
const IN_CONTEXT = ["max_tokens", "min_tokens"]; // no more than the model's context has
const USUAL_ALTERNATIVES = 5;

let schemas = null;
let contextLength = Infinity;

export async function loadSchema(signal) {
  schemas = (await ask("/openapi.json", null, signal)).components.schemas;
}

export function setContextLength(length) {
  contextLength = length;
}

// The parameter that says how many alternatives come with each token.
export const alternativesName = () => (state.mode === "chat" ? "top_logprobs" : "logprobs");
export const mostAlternatives = (body) => schemas[body].properties.logprobs.anyOf[0].maximum;

export const names = () => (schemas ? Object.keys(schemas[BODIES[state.mode]].properties).filter((name) => field(name)) : []);

// {type, low, high, fallback, most, description}; null for what the panel does not show. `most`: entries of a list.
export function field(name) {
  const property = schemas?.[BODIES[state.mode]].properties[name];
  if (!property || SKIPPED.includes(name)) return null;
  const alternatives = name === alternativesName();
  if (name === "logprobs" && !alternatives) return null; // in a chat it only switches top_logprobs on
  const about = property.anyOf?.[0] ?? property;
  const { minimum, maximum } = Object.values(about.patternProperties ?? {})[0] ?? about;
  const bound = (given, otherwise) => Math.max(Number.MIN_SAFE_INTEGER, Math.min(Number.MAX_SAFE_INTEGER, given ?? otherwise));
  const high = Math.min(bound(maximum, Infinity), IN_CONTEXT.includes(name) ? contextLength : Infinity);
  const fallback = alternatives ? USUAL_ALTERNATIVES : property.default;
  return {
    type: about.type,
    low: name === "max_tokens" ? Math.max(1, minimum) : bound(minimum, -Infinity), // 0 only scores a prompt
    high,
    fallback: name === "max_tokens" ? null : fallback, // as many as the context holds, in a completion too
    most: about.maxProperties ?? property.anyOf?.find((form) => form.maxItems)?.maxItems,
    description: property.description,
  };
}
