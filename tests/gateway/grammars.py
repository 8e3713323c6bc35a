"""What tests of grammars share: GPT-2's vocabulary, and texts of random tokens instead of a model's."""

import numpy as np

from export.text import tokenizers as exported
from gateway.text.grammar import GrammarCompiler, Matcher
from gateway.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer(exported.gpt2().tokenizer_json, None)
SIZE = 50257
END = 50256
COMPILER = GrammarCompiler(TOKENIZER, SIZE, frozenset({END}))


def walk(matcher: Matcher, seed: int, tokens: int, temperature: float | None = None) -> tuple[str, bool]:
    """A text of random allowed tokens, steered as a sequence is; and whether it has ended by itself. Without a temperature all
    tokens are equally probable; with one a few are much more so than others, as a model has it."""
    chance = np.random.default_rng(seed)
    state, text = matcher.copy(), b""
    for left in range(tokens, 0, -1):
        allowed = np.flatnonzero(state.allowed())
        if temperature is None:
            token = int(chance.choice(allowed))
        else:
            logits = 3 * chance.normal(size=len(allowed)) - 0.7 * np.log1p(allowed)
            token = int(allowed[(logits / temperature + chance.gumbel(size=len(allowed))).argmax()])
        token = state.advance(token, left)
        if token == END:
            return text.decode(), True
        text += TOKENIZER.token_bytes(token)
        if state.complete:
            return text.decode(), True
    return text.decode(errors="replace"), False
