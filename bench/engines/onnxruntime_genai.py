"""onnxruntime-genai on a directory that its own model builder wrote: `… DIRECTORY`."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime_genai as genai

from bench.engines.protocol import serve


class Engine:
    def __init__(self, directory: str) -> None:
        self._model = genai.Model(directory)

    def decode(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        parameters = genai.GeneratorParams(self._model)
        length = len(prompts[0]) + tokens
        parameters.set_search_options(do_sample=False, max_length=length + 1, min_length=length + 1, batch_size=len(prompts))
        generator = genai.Generator(self._model, parameters)
        start = time.perf_counter()
        generator.append_tokens(np.array(prompts, np.int32))
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(tokens - 1):
            generator.generate_next_token()
        seconds = time.perf_counter() - first
        texts = [generator.get_sequence(n)[len(prompt) : length].tolist() for n, prompt in enumerate(prompts)]
        return {"prefill_seconds": first - start, "seconds": seconds, "texts": texts}

    def texts(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        return {"texts": self.decode(prompts, tokens)["texts"]}

    def prefill(self, prompt: list[int]) -> Mapping[str, Any]:
        return {"seconds": self.decode([prompt], 1)["prefill_seconds"]}


if __name__ == "__main__":
    engine = Engine(sys.argv[1])
    given = f"onnxruntime-genai {genai.__version__}, one batch, {sys.argv[2]}"
    serve(given, decode=engine.decode, prefill=engine.prefill, texts=engine.texts)
