"""The graph that a GPU gets: in fp16 and without query_seqlens, against the same weights in fp32, both on the CPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backends.onnx_decoder.decoder import Decoder, Row
from export.checkpoint import Checkpoint
from export.checkpoints import read
from export.demonstration import demonstration_checkpoint
from export.graph import write_graph
from export.quantize import PRECISIONS
from export.verify import Comparison, text_windows
from tests.export import samples

CONTEXT, WRITTEN = 160, 24


def llama(directory: Path) -> Path:
    return demonstration_checkpoint()


def gpt2(directory: Path) -> Path:
    samples.build_nanogpt(directory / "model.pt", block_size=256)
    return directory / "model.pt"


def decoder(path: Path, checkpoint: Checkpoint, precision: str) -> Decoder:
    write_graph(
        path,
        checkpoint.architecture,
        checkpoint.weights,
        PRECISIONS[precision],
        context_length=CONTEXT,
        candidates=64,
        query_seqlens=precision != "fp16",
    )
    return Decoder(path, slots=2, context_length=CONTEXT)


def logits(decoder: Decoder, tokens: np.ndarray) -> np.ndarray:
    """Of every position, float32 [n, vocabulary]."""
    (found,) = decoder.run([Row(0, 0, tokens, len(tokens), full_logits=True)])
    assert found.logits is not None
    return found.logits


def greedy(decoder: Decoder, prompt: np.ndarray) -> list[int]:
    (found,) = decoder.run([Row(1, 0, prompt)])
    text = [int(found.candidate_id[0, 0])]
    while len(text) < WRITTEN:
        (found,) = decoder.run([Row(1, len(prompt) + len(text) - 1, np.array(text[-1:], np.int32))])
        text.append(int(found.candidate_id[0, 0]))
    return text


@pytest.mark.slow
@pytest.mark.parametrize("source", [llama, gpt2])
def test_half_precision_says_what_full_precision_says(tmp_path: Path, source: Callable[[Path], Path]) -> None:
    checkpoint = read(source(tmp_path))
    text = text_windows(checkpoint, CONTEXT)[0][: CONTEXT - WRITTEN].astype(np.int32)
    full, half = (decoder(tmp_path / f"{precision}.onnx", checkpoint, precision) for precision in ("fp32", "fp16"))
    compared = Comparison()
    compared.add(logits(full, text), logits(half, text))
    assert compared.kl < 1e-4 and compared.top1 > 0.98, f"KL {compared.kl:.2e}, top-1 {compared.top1:.3f}"
    assert greedy(half, text[:32]) == greedy(full, text[:32])
