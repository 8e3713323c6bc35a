"""transformers with its own cache, or without any: `… DIRECTORY DTYPE THREADS [recompute]`.

A plain greedy loop over the model's forward: it does less a token than `generate`. `recompute` feeds the whole sequence again
for every token, as a plain nanoGPT loop does.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from bench.engines.protocol import serve


class Engine:
    def __init__(self, directory: str, dtype: str, threads: int, recompute: bool) -> None:
        torch.set_num_threads(threads)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
        self._recompute = recompute

    @torch.inference_mode()
    def decode(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        given = sequence = torch.tensor(prompts)
        start = time.perf_counter()
        cache, token = self._next(given, None)
        first = time.perf_counter()
        sequence = torch.cat([sequence, token], 1)
        for _ in range(tokens - 1):
            cache, token = self._next(sequence if self._recompute else token, cache)
            sequence = torch.cat([sequence, token], 1)
        seconds = time.perf_counter() - first
        return {"prefill_seconds": first - start, "seconds": seconds, "texts": sequence[:, given.shape[1] :].tolist()}

    def _next(self, tokens: torch.Tensor, cache: Any) -> tuple[Any, torch.Tensor]:
        found = self._model(tokens, past_key_values=cache, use_cache=not self._recompute, logits_to_keep=1)
        return found.past_key_values, found.logits[:, -1].argmax(-1, keepdim=True)

    def texts(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        return {"texts": self.decode(prompts, tokens)["texts"]}

    def prefill(self, prompt: list[int]) -> Mapping[str, Any]:
        return {"seconds": self.decode([prompt], 1)["prefill_seconds"]}


if __name__ == "__main__":
    engine = Engine(sys.argv[1], sys.argv[2], int(sys.argv[3]), "recompute" in sys.argv)
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    given = f"{versions}, {sys.argv[2]}, {sys.argv[3]} threads, {'no cache' if 'recompute' in sys.argv else 'one batch, SDPA'}"
    serve(given, decode=engine.decode, prefill=engine.prefill, texts=engine.texts)
