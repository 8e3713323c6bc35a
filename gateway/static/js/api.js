// Talking to the gateway: requests, streams of events, and what went wrong as a Problem that says what to do about it.

import { t } from "./i18n.js";
import { apiKey } from "./storage.js";

// A header takes no characters beyond 255; the gateway reads the bytes as UTF-8.
const bytes = (text) => String.fromCharCode(...new TextEncoder().encode(text));

// Where the gateway is: behind a proxy, perhaps under a path of its own.
export const BASE = new URL(".", location.href).href.replace(/\/$/, "");

const HEALTH_WITHIN = 10_000; // ms

// `waits`: the page tries again by itself, after `seconds` at least. `act`: "key", "models" or "field" (the one of the name
// `param`): where something has to be changed. `tooLong`: the prompt does not fit into the model's context.
export class Problem extends Error {
  constructor(sentence, { waits = false, seconds = 0, act = null, param = null, tooLong = false } = {}) {
    super(sentence);
    Object.assign(this, { waits, seconds, act, param, tooLong });
  }
}

const offline = (error) => {
  if (error.name === "AbortError") throw error;
  throw new Problem(t("waitOffline"), { waits: true, seconds: 1 });
};

export async function request(path, body = null, signal = undefined) {
  const headers = { "X-API-Key": bytes(apiKey()) };
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(BASE + path, {
    method: body ? "POST" : "GET",
    headers,
    body: body && JSON.stringify(body),
    signal,
    cache: "no-store",
  }).catch(offline);
  if (response.ok) return response;
  throw refusal(response, await response.json().catch(() => null), body);
}

export const ask = async (path, body, signal) => (await request(path, body, signal)).json().catch(offline);

function refusal(response, answer, body) {
  const { status, headers } = response;
  const error = answer?.error ?? {};
  const message = error.message ?? `${status} ${response.statusText}`;
  const seconds = Math.max(1, Number(headers.get("Retry-After") ?? 2) || 2); // a proxy may name a date, or 0
  if (status === 401) return new Problem(t("errorKey"), { act: "key" });
  if (status === 403) return new Problem(t("errorModel", { model: body?.model ?? "" }), { act: "models" });
  if (status === 404) return new Problem(t("errorGone"), { act: "models" });
  if (status === 413) return new Problem(t("errorLarge"));
  if (status === 429 && headers.get("x-should-retry") === "false") return new Problem(t("errorLimit", { message }));
  if (status === 429) return new Problem(t(error.code === "overloaded" ? "waitBusy" : "waitLimit"), { waits: true, seconds });
  if (status === 503 || status === 502 || status === 504)
    return new Problem(t(error.code === "too_many_connections" ? "waitBusy" : "waitTriton"), { waits: true, seconds });
  if (error.code === "context_length_exceeded") return new Problem(t("errorRefused", { message }), { tooLong: true });
  if (status < 500)
    return new Problem(t("errorRefused", { message }), { act: error.param ? "field" : null, param: error.param });
  return new Problem(t("errorServer", { message }));
}

// An error that came after the stream had begun.
function failure({ code, message }) {
  const waits = ["backend_unavailable", "overloaded"].includes(code);
  return new Problem(waits ? t("waitTriton") : t("errorServer", { message }), { waits, seconds: 1 });
}

// The events of a stream, until [DONE]. A stream that ends without it has broken off.
export async function* events(response) {
  const broken = (error) => {
    if (error?.name === "AbortError") throw error;
    throw new Problem(t("waitBroken"), { waits: true, seconds: 1 });
  };
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read().catch(broken);
    if (done) broken();
    const parts = (buffer + value).split("\n\n");
    buffer = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue; // a comment, which only keeps the connection
      if (part === "data: [DONE]") return;
      const event = JSON.parse(part.slice("data: ".length));
      if (event.error) throw failure(event.error);
      yield event;
    }
  }
}

// What /health says: null where nobody answers in time, else whether all is well and how many texts wait.
export async function health(signal) {
  const patience = AbortSignal.any([signal, AbortSignal.timeout(HEALTH_WITHIN)]);
  const response = await fetch(`${BASE}/health`, { cache: "no-store", signal: patience }).catch(() => null);
  if (!response) return null;
  const answer = await response.json().catch(() => ({}));
  const waiting = Object.values(answer.data?.models ?? {}).reduce((sum, model) => sum + model.waiting, 0);
  return { well: response.ok, waiting };
}
