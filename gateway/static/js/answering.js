// One answer under way: asks, reads the stream, waits where the server has to be waited for, and goes on.

import { Problem, events, request } from "./api.js";
import { hideNotice, waitOut, watchSilence } from "./notice.js";
import { measure } from "./figures.js";
import { number, t } from "./i18n.js";
import { fresh, goingOn, lengthOf, read } from "./requests.js";

let controller = null;

export const isRunning = () => controller !== null;
export const stop = () => controller?.abort();

// Until all samples of the version have ended. Throws a Problem that needs somebody; a stop only ends the samples.
// `onPiece(sample)`: something was added to it.
export async function run(version, onPiece) {
  controller = new AbortController();
  const { signal } = controller;
  hideNotice();
  let finish = "broken";
  try {
    while (open(version).length && !(await attempt(version, onPiece, signal)));
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    finish = "stopped";
    hideNotice();
  } finally {
    controller = null;
    for (const sample of open(version)) {
      sample.finish = finish;
      onPiece(sample);
    }
  }
}

const open = (version) => version.samples.filter((sample) => sample.finish === null);

// True when the stream ended as it should; false when what is still open has to be tried again, which is waited for here.
async function attempt(version, onPiece, signal) {
  const silence = watchSilence(signal);
  try {
    await stream(version, onPiece, signal, silence);
    return true;
  } catch (error) {
    if (error instanceof Problem && error.tooLong) throw await inNumbers(error, version);
    if (!(error instanceof Problem && error.waits)) throw error;
    silence.end();
    await waitOut(error, signal);
    return false;
  } finally {
    silence.end();
  }
}

async function stream(version, onPiece, signal, silence) {
  const samples = open(version);
  // An answer of a given form has to begin with its beginning.
  if (version.source.values.response_format) samples.forEach(reset);
  const anew = samples.length === version.samples.length && samples.every((sample) => !sample.text);
  samples.forEach((sample) => sample.segments.settle());
  const meter = measure(version, anew);
  const { path, body } = anew ? fresh(version.source) : await goingOn(version.source, samples, signal);
  for await (const event of events(await request(path, body, signal))) {
    silence.heard();
    const { usage, pieces } = read(event);
    if (usage) meter.usage(usage);
    for (const piece of pieces) {
      take(samples[piece.index], piece);
      meter.tokens(piece.tokens.length);
      onPiece(samples[piece.index]);
    }
  }
}

// Of a prompt that does not fit: how long it is, and how long it may be.
async function inNumbers(problem, { source, samples }) {
  if (samples.some((sample) => sample.text)) return new Problem(t("errorFull"));
  const { count, max_model_len: most } = await lengthOf(source).catch(() => ({}));
  return count ? new Problem(t("errorLong", { count: number(count), most: number(most) })) : problem;
}

function take(sample, { text, tokens, finish }) {
  sample.text += text;
  sample.spent += tokens.length;
  sample.finish = finish ?? null;
  sample.segments.extend(tokens, sample.text, Boolean(finish));
}

function reset(sample) {
  Object.assign(sample, { text: "", spent: 0 });
  sample.segments.clear();
}
