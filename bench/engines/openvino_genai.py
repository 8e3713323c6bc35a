"""OpenVINO GenAI on a GGUF, read by its own reader: `… MODEL.gguf THREADS`. Its continuous batching, step by step."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai

from bench.engines.protocol import serve


class Engine:
    def __init__(self, directory: str, threads: int) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = 2048  # all prompts of a batch in one step
        scheduler.max_num_seqs = 64
        scheduler.cache_size = 2  # GB
        scheduler.enable_prefix_caching = False
        self._pipeline = genai.ContinuousBatchingPipeline(
            directory, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        )

    def decode(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = tokens
        config.ignore_eos, config.do_sample = True, False
        start = time.perf_counter()
        handles = [
            self._pipeline.add_request(n, openvino.Tensor(np.array([prompt], np.int64)), config)
            for n, prompt in enumerate(prompts)
        ]
        self._pipeline.step()
        first = time.perf_counter()
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        seconds = time.perf_counter() - first
        texts = [list(handle.read_all()[0].generated_ids) for handle in handles]
        return {"prefill_seconds": first - start, "seconds": seconds, "texts": texts}

    def texts(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        return {"texts": self.decode(prompts, tokens)["texts"]}

    def prefill(self, prompt: list[int]) -> Mapping[str, Any]:
        return {"seconds": self.decode([prompt], 1)["prefill_seconds"]}


if __name__ == "__main__":
    engine = Engine(sys.argv[1], int(sys.argv[2]))
    given = f"OpenVINO GenAI {genai.__version__}, continuous batching, {sys.argv[2]} threads"
    serve(given, decode=engine.decode, prefill=engine.prefill, texts=engine.texts)
