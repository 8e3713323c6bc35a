"""What people run now, on the same device: transformers with a static cache, compiled, and the loop that computes the whole
sequence again for each token, as the training scripts' own samples do."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from backends.onnx_decoder.decoder import Decoder, Row
from backends.onnx_decoder.device import Device
from bench.gpu_check.card import seconds
from bench.gpu_check.models import Candidate

PROMPT = 16  # tokens
TOP_K = 50

Loop = Callable[[int, int], float]  # streams, tokens each → tokens a second


def loops(model: Candidate, device: str) -> Iterator[tuple[str, Callable[[], Loop]]]:
    """Names, each with what makes it ready."""
    yield "transformers, static cache, compiled", lambda: _transformers(model.load(device), device)
    yield "the whole sequence again for each token", lambda: _again(model.load(device), device)


def _prompts(model: Any, streams: int, device: str) -> torch.Tensor:
    return torch.randint(0, model.config.vocab_size, (streams, PROMPT), device=device)


def _transformers(model: Any, device: str) -> Loop:
    if device == "cuda":
        model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)

    def run(streams: int, tokens: int) -> float:
        def work() -> None:
            prompts = _prompts(model, streams, device)
            with torch.inference_mode():
                model.generate(
                    prompts,
                    attention_mask=torch.ones_like(prompts),
                    max_new_tokens=tokens,
                    min_new_tokens=tokens,
                    do_sample=False,
                    cache_implementation="static",
                    pad_token_id=0,
                )

        work()  # compiles
        return streams * tokens / seconds(device, work)

    return run


def _again(model: Any, device: str) -> Loop:
    def run(streams: int, tokens: int) -> float:
        def work() -> None:
            text = _prompts(model, streams, device)
            with torch.inference_mode():
                for _ in range(tokens):
                    logits = model(text, use_cache=False).logits[:, -1].float()
                    best, ids = torch.softmax(logits, -1).topk(TOP_K)
                    text = torch.cat([text, ids.gather(-1, torch.multinomial(best, 1))], 1)

        return streams * tokens / seconds(device, work)

    return run


def decoder_alone(model: Candidate, device: Device) -> Loop:
    """Ours without Triton, gateway and sampling: greedy."""
    made: dict[int, Decoder] = {}

    def run(streams: int, tokens: int) -> float:
        decoder = made.get(streams)
        if decoder is None:
            made.clear()  # its cache is as large as the other's
            decoder = made[streams] = Decoder(model.version / "model.onnx", slots=streams, context_length=512, device=device)
        random = np.random.default_rng(0)

        def work() -> None:
            rows = [Row(slot, 0, random.integers(0, 20000, PROMPT).astype(np.int32)) for slot in range(streams)]
            for length in range(PROMPT, PROMPT + tokens):
                found = decoder.run(rows)
                rows = [Row(slot, length, one.candidate_id[0, :1]) for slot, one in enumerate(found)]

        work()
        return streams * tokens / seconds(device.name, work)

    return run
