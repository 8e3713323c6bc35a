"""CTranslate2 on a directory that its own converter wrote: `… DIRECTORY COMPUTE_TYPE THREADS`."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ctranslate2

from bench.engines.protocol import serve


class Engine:
    def __init__(self, directory: str, compute_type: str, threads: int) -> None:
        self._generator = ctranslate2.Generator(directory, compute_type=compute_type, intra_threads=threads, inter_threads=1)
        self._names: list[str] = json.loads((Path(directory) / "vocabulary.json").read_text())

    def _generate(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[list[int]]]:
        named = [[self._names[token] for token in prompt] for prompt in prompts]
        start = time.perf_counter()
        results = self._generator.generate_batch(
            named, max_length=tokens, min_length=tokens, beam_size=1, sampling_topk=1, include_prompt_in_result=False,
            end_token=[], max_batch_size=0,
        )  # fmt: skip
        return time.perf_counter() - start, [result.sequences_ids[0] for result in results]

    def decode(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        """It cannot say when the first token was there: that time is taken from a run of one token."""
        prefill, _ = self._generate(prompts, 1)
        seconds, texts = self._generate(prompts, tokens)
        return {"prefill_seconds": prefill, "seconds": seconds - prefill, "texts": texts}

    def texts(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        return {"texts": self._generate(prompts, tokens)[1]}

    def prefill(self, prompt: list[int]) -> Mapping[str, Any]:
        return {"seconds": self._generate([prompt], 1)[0]}


if __name__ == "__main__":
    engine = Engine(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    given = f"CTranslate2 {ctranslate2.__version__}, {sys.argv[2]}, {sys.argv[3]} threads, one batch"
    serve(given, decode=engine.decode, prefill=engine.prefill, texts=engine.texts)
