// The line above the box: what went wrong and what to do, or what the page is waiting for. It waits, too.

import { health } from "./api.js";
import { announce, element, make } from "./dom.js";
import { t } from "./i18n.js";

const LOOK_EVERY = 1000; // ms
const SILENCE = 700; // ms without a token after which the server is asked why; a step is shorter
const ASK_EVERY = 300; // ms: a restart is announced about a second after the last token

export function hideNotice() {
  element("notice").hidden = true;
  element("notice").replaceChildren();
}

// `again`: what the button does; without it there is none.
export function showProblem(sentence, again = null) {
  show("alert", "problem", make("p", {}, sentence), again && make("button", { type: "button", onclick: again }, t("tryAgain")));
}

export function showWaiting(sentence) {
  if (element("notice").querySelector("p")?.textContent === sentence) return;
  show("status", "waiting", make("p", {}, sentence));
}

function show(role, className, ...children) {
  const notice = element("notice");
  Object.assign(notice, { role, className, hidden: false });
  notice.replaceChildren(...children.filter(Boolean));
}

// Counts the seconds down, then asks /health until the server is well. Throws AbortError when `signal` says so.
export async function waitOut(problem, signal) {
  const count = make("span", { "aria-hidden": "true" });
  showWaiting(problem.message);
  element("notice").append(count);
  const end = performance.now() + problem.seconds * 1000; // a page in the background counts seldom
  for (let left; (left = Math.ceil((end - performance.now()) / 1000)) > 0; ) {
    count.textContent = t("waitSeconds", { seconds: left });
    await pause(LOOK_EVERY, signal);
  }
  count.textContent = "";
  while (!(await health(signal))?.well) await pause(LOOK_EVERY, signal);
  announce(t("back"));
  hideNotice();
}

const pause = (milliseconds, signal) =>
  new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });

// While an answer is awaited: says why nothing comes. Returns what has to be called at each event, and `end`.
export function watchSilence(signal) {
  let last = performance.now();
  let shown = false;
  let begun = false;
  let asking = false;
  const timer = setInterval(async () => {
    if (asking || performance.now() - last < SILENCE) return;
    asking = true;
    const state = await health(signal);
    asking = false;
    if (performance.now() - last < SILENCE || !state || (state.well && (begun || !state.waiting))) return;
    shown = true;
    showWaiting(t(state.well ? "waitQueued" : "waitStalled"));
  }, ASK_EVERY);
  const heard = () => {
    last = performance.now();
    begun = true;
    if (shown) hideNotice();
    shown = false;
  };
  return {
    heard,
    end: () => {
      clearInterval(timer);
      last = Infinity;
      if (shown) hideNotice();
    },
  };
}
