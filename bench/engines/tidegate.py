"""Our own decoder, as Triton's backend runs it: `python -m bench.engines.tidegate MODEL.onnx [--device cuda]`."""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from backends.onnx_decoder.decoder import Decoder, Row
from backends.onnx_decoder.resources import use_huge_pages
from bench.engines.protocol import serve
from bench.gpu_check.card import device_of


class Engine:
    def __init__(self, model: Path, slots: int, context_length: int, device: str) -> None:
        self._decoder = Decoder(model, slots=slots, context_length=context_length, device=device_of(device))
        if device == "cpu":
            use_huge_pages()

    def decode(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        start = time.perf_counter()
        found = self._decoder.run([Row(slot, 0, np.array(prompt, np.int32)) for slot, prompt in enumerate(prompts)])
        first = time.perf_counter()
        texts = [[int(one.candidate_id[0, 0])] for one in found]
        for step in range(tokens - 1):
            rows = [Row(n, len(prompt) + step, np.array(texts[n][-1:], np.int32)) for n, prompt in enumerate(prompts)]
            for text, one in zip(texts, self._decoder.run(rows), strict=True):
                text.append(int(one.candidate_id[0, 0]))
        return {"prefill_seconds": first - start, "seconds": time.perf_counter() - first, "texts": texts}

    def texts(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        return {"texts": self.decode(prompts, tokens)["texts"]}

    def prefill(self, prompt: list[int]) -> Mapping[str, Any]:
        start = time.perf_counter()
        self._decoder.run([Row(0, 0, np.array(prompt, np.int32))])
        return {"seconds": time.perf_counter() - start}

    def step(self, streams: int, past: int, repeats: int) -> Mapping[str, Any]:
        """Seconds of each of some decode steps behind so many tokens of whatever the cache holds."""
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            self._decoder.run([Row(slot, past, np.array([slot + 1], np.int32)) for slot in range(streams)])
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    engine = Engine(options.model, options.slots, options.context, options.device)
    where = "all cores" if options.device == "cpu" else "the GPU"
    serve(f"ONNX Runtime, {where}", decode=engine.decode, prefill=engine.prefill, texts=engine.texts, step=engine.step)
