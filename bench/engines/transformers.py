"""transformers on a Hugging Face directory: `… DIRECTORY DTYPE THREADS [recompute|static] [--device cuda]`.

By default a plain greedy loop over the model's forward with a growing cache: it does less per token than `generate`.
`recompute` feeds the whole sequence again for every token, as a plain nanoGPT loop does. `static` is `generate` with a static
cache, which transformers compiles on a GPU.
"""

import argparse
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers

from bench.engines.protocol import serve


class Engine:
    def __init__(self, directory: str, dtype: str, threads: int, mode: str, device: str) -> None:
        torch.set_num_threads(threads)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
        self._model, self._device, self._mode = model.eval().to(device), device, mode

    @torch.inference_mode()
    def decode(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        if self._mode == "static":
            return self._generate(prompts, tokens)
        given = sequence = torch.tensor(prompts, device=self._device)
        start = time.perf_counter()
        cache, token = self._next(given, None)
        first = self._now()
        sequence = torch.cat([sequence, token], 1)
        for _ in range(tokens - 1):
            cache, token = self._next(token if self._mode == "cache" else sequence, cache)
            sequence = torch.cat([sequence, token], 1)
        seconds = self._now() - first
        return {"prefill_seconds": first - start, "seconds": seconds, "texts": sequence[:, given.shape[1] :].tolist()}

    def _now(self) -> float:
        """When the device has finished."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _next(self, tokens: torch.Tensor, cache: Any) -> tuple[Any, torch.Tensor]:
        found = self._model(tokens, past_key_values=cache, use_cache=self._mode == "cache", logits_to_keep=1)
        return found.past_key_values, found.logits[:, -1].argmax(-1, keepdim=True)

    def _generate(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        """Its seconds include the prompts: `generate` does not report the first token, and a shorter run to measure that would
        change the cache's shape, which is compiled."""
        given = torch.tensor(prompts, device=self._device)
        start = self._now()
        sequence = self._model.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            cache_implementation="static",
            pad_token_id=0,
        )
        return {"prefill_seconds": 0.0, "seconds": self._now() - start, "texts": sequence[:, given.shape[1] :].tolist()}

    def texts(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        return {"texts": self.decode(prompts, tokens)["texts"]}

    def prefill(self, prompt: list[int]) -> Mapping[str, Any]:
        return {"seconds": self.decode([prompt], 1)["prefill_seconds"]}

    @torch.inference_mode()
    def logits(self, tokens: list[int], path: str) -> Mapping[str, Any]:
        """Writes those of every position to ``path``, a `.npy`: float32 [tokens, vocabulary]."""
        found = self._model(torch.tensor([tokens], device=self._device), use_cache=False).logits[0]
        np.save(path, found.float().cpu().numpy())
        return {"path": path}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("dtype")
    parser.add_argument("threads", type=int)
    parser.add_argument("mode", nargs="?", choices=["cache", "recompute", "static"], default="cache")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    engine = Engine(options.directory, options.dtype, options.threads, options.mode, options.device)
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    mode = {"cache": "one batch, SDPA", "recompute": "no cache", "static": "static cache"}[options.mode]
    given = f"{versions}, {options.dtype} on {options.device}, {options.threads} threads, {mode}"
    serve(given, decode=engine.decode, prefill=engine.prefill, texts=engine.texts, logits=engine.logits)
