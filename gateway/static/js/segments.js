// Tokens and the text they make. A token may be half a character: a segment is as many tokens as make whole characters.

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder("utf-8", { ignoreBOM: true });
const LONGEST_CHARACTER = 4; // bytes in UTF-8

// The text of the bytes; null where they are no whole characters.
export function decoded(bytes) {
  try {
    return strict.decode(new Uint8Array(bytes));
  } catch {
    return null;
  }
}

// From the two forms of log-probabilities to one: [{bytes, logprob, top: [{bytes, logprob}]}].
export const fromChat = (logprobs) =>
  (logprobs?.content ?? []).map(({ bytes, logprob, top_logprobs }) => ({
    bytes,
    logprob,
    top: top_logprobs.map((other) => ({ bytes: other.bytes, logprob: other.logprob })),
  }));

export const fromCompletion = (logprobs) =>
  (logprobs?.tokens ?? []).map((name, index) => {
    const top = Object.entries(logprobs.top_logprobs?.[index] ?? {}).map(([other, logprob]) => ({
      bytes: named(other),
      logprob,
    }));
    return { bytes: named(name), logprob: logprobs.token_logprobs[index], top: top.sort((a, b) => b.logprob - a.logprob) };
  });

// /v1/completions names half a character by its bytes: bytes:\xe4\xbd
function named(name) {
  if (!/^bytes:(\\x[0-9a-f]{2})+$/.test(name)) return [...new TextEncoder().encode(name)];
  return name
    .slice("bytes:".length)
    .split("\\x")
    .slice(1)
    .map((byte) => parseInt(byte, 16));
}

// Takes tokens in and cuts the text that they belong to into segments. The text may lag behind its tokens (a stop string
// may be coming), and leaves out special tokens.
export class Segments {
  list; // [{text, tokens, begin}]: begin is where it starts in the text
  #end = 0; // how much of the text has its segment
  #waiting = []; // tokens without one

  constructor(list = []) {
    this.list = list;
    const last = list.at(-1);
    if (last) this.#end = last.begin + last.text.length;
  }

  // `complete`: no more text will come.
  extend(tokens, text, complete) {
    this.#waiting.push(...tokens);
    while (this.#waiting.length && this.#cut(text, complete));
  }

  // Tokens whose text never came: the next ones follow upon the text as it is.
  settle() {
    this.#waiting = [];
  }

  clear() {
    this.list = [];
    this.#end = 0;
    this.settle();
  }

  // What has no token that we know: the answer's text is always shown whole.
  rest(text) {
    return text.slice(this.#end);
  }

  #cut(text, complete) {
    const count = this.#wholeCharacters();
    if (!count) return false;
    const tokens = this.#waiting.slice(0, count);
    const bytes = tokens.flatMap((token) => token.bytes);
    const made = decoded(bytes) ?? lenient.decode(new Uint8Array(bytes));
    const forms = this.#end ? [made] : [made, made.trimStart()]; // some tokenizers drop a text's first space
    const shown = forms.find((form) => form && text.startsWith(form, this.#end));
    if (shown === undefined && !complete && text.length < this.#end + made.length) return false;
    this.#waiting.splice(0, count);
    if (shown) {
      this.list.push({ text: shown, tokens, begin: this.#end });
      this.#end += shown.length;
    }
    return true;
  }

  #wholeCharacters() {
    let bytes = [];
    for (const [index, token] of this.#waiting.entries()) {
      bytes = bytes.concat(token.bytes);
      if (decoded(bytes) !== null || bytes.length >= LONGEST_CHARACTER + token.bytes.length) return index + 1;
    }
    return 0;
  }
}

export const probability = (token) => Math.exp(token.logprob);

// Of a segment: all its tokens had to come.
export const segmentProbability = (segment) => segment.tokens.reduce((product, token) => product * probability(token), 1);
