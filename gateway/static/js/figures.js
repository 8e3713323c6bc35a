// What an answer took: measured while it is written, and said in one line beneath it.

import { duration, number, percent, t } from "./i18n.js";

const unmeasured = () => ({ prompt: null, cached: null, completion: 0, firstToken: null, speed: null });

// Measures one request for the version. `anew`: it begins the answer; else it adds to what came before. version.figures is plain
// data: tokens in, of them from the cache, and out; milliseconds to the first token; tokens a second from then on.
export function measure(version, anew) {
  const figures = anew ? unmeasured() : { ...(version.figures ?? unmeasured()), speed: null };
  const before = figures.completion;
  const began = performance.now();
  let first = null; // {at, count}: the tokens that came first, together
  version.figures = figures;
  return {
    tokens(count) {
      if (!count) return;
      const now = performance.now();
      first ??= { at: now, count };
      figures.firstToken ??= now - began;
      figures.completion += count;
      const later = figures.completion - before - first.count;
      if (later && now > first.at) figures.speed = (later * 1000) / (now - first.at);
    },
    usage(used) {
      if (!anew) return; // the prompt of a request that goes on holds the answer so far
      figures.prompt = used.prompt_tokens;
      figures.cached = used.prompt_tokens_details?.cached_tokens ?? 0;
    },
  };
}

// Only what is known yet.
export function sentence(figures) {
  if (!figures?.completion) return "";
  const { prompt, cached, completion, firstToken, speed } = figures;
  return [
    speed && t("figureSpeed", { speed: number(speed, speed < 10 ? 1 : 0) }),
    t("figureFirst", { time: duration(firstToken) }),
    t(prompt === null ? "figureOut" : "figureTokens", { prompt: number(prompt), completion: number(completion) }),
    cached && t("figureCached", { share: percent(cached / prompt, 0) }),
  ]
    .filter(Boolean)
    .join(" · ");
}
