// Four small plots of the last answers: time to the first token, speed, tokens, and how much of the prompt came from the cache.

import { element, make } from "./dom.js";
import { percent, t } from "./i18n.js";

const SHOWN = 24; // answers, at most
const LEAST_SLOTS = 12; // so that the first few bars are bars and no walls
const SPEED_WINDOW = 2000; // ms over which the speed of the moment is taken
const REDRAW = 200; // ms
const SPEEDS = 600; // the last two minutes of an answer: one may wait all night for its server
const WIDTH = 100;
const HEIGHT = 24;

const history = []; // {began, first, arrivals: [[ms, count]], speeds, tokens, usage}
let timer = null;

export function begin() {
  history.push({ began: performance.now(), first: null, arrivals: [], speeds: [], tokens: 0, usage: null });
  if (history.length > SHOWN) history.shift();
  timer = setInterval(() => {
    sample();
    draw();
  }, REDRAW);
}

export function tokens(count) {
  const run = history.at(-1);
  const now = performance.now();
  if (!count) return;
  run.first ??= now - run.began;
  run.tokens += count;
  run.arrivals.push([now, count]);
}

// An answer that went on after a break has one more of these.
export function usage(used) {
  const run = history.at(-1);
  const before = run.usage ?? { prompt: 0, cached: 0, completion: 0 };
  run.usage = {
    prompt: Math.max(before.prompt, used.prompt_tokens),
    cached: before.cached + (used.prompt_tokens_details?.cached_tokens ?? 0),
    completion: before.completion + used.completion_tokens,
  };
}

export function end() {
  clearInterval(timer);
  sample();
  draw();
}

function sample() {
  const run = history.at(-1);
  const now = performance.now();
  const recent = run.arrivals.filter(([at]) => at > now - SPEED_WINDOW);
  const span = Math.min(SPEED_WINDOW, now - run.began - (run.first ?? 0));
  if (run.first === null || span <= 0) return;
  const speed = (recent.reduce((sum, [, count]) => sum + count, 0) * 1000) / span;
  if (run.speeds.push(speed) > SPEEDS) run.speeds.shift();
}

// Tokens a second from the first token to the last; one token alone has no speed.
function speed(run) {
  const last = run.arrivals.at(-1)?.[0];
  const seconds = (last - run.began - run.first) / 1000;
  return run.tokens > 1 && seconds > 0 ? (run.tokens - run.arrivals[0][1]) / seconds : null;
}

const share = (run) => (run.usage?.prompt ? Math.min(1, run.usage.cached / run.usage.prompt) : null);

const FIGURES = [
  { name: "firstToken", of: (run) => run.first, tell: duration, plot: bars },
  { name: "speed", of: speed, tell: (value) => [value.toFixed(value < 10 ? 1 : 0), t("perSecond")], plot: line },
  { name: "used", of: (run) => run.tokens, tell: (value) => [String(value), ""], plot: stacked },
  { name: "cache", of: share, tell: (value) => [percent(value), ""], plot: (runs) => bars(runs, share, 1) },
];

function duration(milliseconds) {
  return milliseconds < 1000 ? [milliseconds.toFixed(0), t("milliseconds")] : [(milliseconds / 1000).toFixed(1), t("seconds")];
}

export function draw() {
  element("figures").replaceChildren(
    ...FIGURES.map(({ name, of, tell, plot }) => {
      const said = (run) => {
        const value = of(run);
        return value === null ? "–" : tell(value).join(" ").trim();
      };
      const value = history.length ? of(history.at(-1)) : null;
      const [number, unit] = value === null ? ["–", ""] : tell(value);
      const label = t("figureLabel", {
        name: t(name),
        value: history.length ? said(history.at(-1)) : "–",
        count: history.length,
        values: history.map(said).join(", ") || "–",
      });
      const text = make("dl", {}, make("dt", {}, t(name)), make("dd", {}, number, make("small", {}, unit && ` ${unit}`)));
      return make("div", { className: "figure", "data-figure": name, title: more(name) }, text, svg(label, plot(history, of)));
    }),
  );
}

function more(name) {
  const usage = history.at(-1)?.usage;
  return name === "used" && usage ? t("usedMore", usage) : "";
}

// --- shapes: [tag, attributes]

function bars(runs, of, most = Math.max(...runs.map(of), 1)) {
  return runs.flatMap((run, index) => (of(run) === null ? [] : [bar(index, 0, of(run) / most)]));
}

function stacked(runs) {
  const total = (run) => (run.usage?.prompt ?? 0) + run.tokens;
  const most = Math.max(...runs.map(total), 1);
  return runs.flatMap((run, index) => [
    bar(index, 0, run.tokens / most),
    bar(index, run.tokens / most, (run.usage?.prompt ?? 0) / most, "more"),
  ]);
}

// The speed within the answer of the moment.
function line(runs) {
  const speeds = runs.at(-1)?.speeds ?? [];
  if (speeds.length < 2) return [];
  const most = Math.max(...speeds);
  const points = speeds.map(
    (value, index) =>
      `${((index * WIDTH) / (speeds.length - 1)).toFixed(1)},${(HEIGHT - 1 - (value / most) * (HEIGHT - 3)).toFixed(1)}`,
  );
  return [["path", { d: `M${points.join("L")}` }]];
}

function bar(index, from, height, kind = "") {
  const step = WIDTH / Math.max(LEAST_SLOTS, history.length);
  return [
    "rect",
    { x: index * step, y: HEIGHT * (1 - from - height), width: step * 0.7, height: HEIGHT * height, class: kind },
  ];
}

function svg(label, shapes) {
  const node = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const drawn = node("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": label,
  });
  drawn.append(
    node("line", { x1: 0, y1: HEIGHT, x2: WIDTH, y2: HEIGHT }),
    ...shapes.map(([tag, attributes]) => node(tag, attributes)),
  );
  return drawn;
}
