"""Whether a checkpoint that a project's own code wrote computes here what it computed there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from backends.onnx_decoder.decoder import Decoder, Row
from export.checkpoint import Checkpoint
from export.checkpoints import read
from export.graph import write_graph
from export.quantize import PRECISIONS
from export.text.chat_environment import compile_template, render

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "checkpoints"
LARGEST_DIFFERENCE = 2e-4  # of a logit in fp32, in units of the logits' standard deviation
CHUNK = 64


def shared(name: str) -> Path:
    """A folder of checkpoints with their projects' own tokens; the test is skipped where they are not at hand."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not at hand: it lies outside of the repository")
    return folder


def decoder_of(checkpoint: Checkpoint, directory: Path, precision: str = "fp32", *, slots: int = 2) -> Decoder:
    """The checkpoint's graph in the decoder that serves it."""
    context = min(checkpoint.architecture.context_length, 512)
    vocabulary = checkpoint.architecture.vocabulary_size
    path = directory / "model.onnx"
    write_graph(
        path,
        checkpoint.architecture,
        checkpoint.weights,
        PRECISIONS[precision],
        context_length=context,
        candidates=min(64, vocabulary),
        query_seqlens=precision != "fp16",
    )
    return Decoder(path, slots=slots, context_length=context, threads=1)


def prefill(decoder: Decoder, tokens: list[int], *, slot: int = 1, chunk: int = CHUNK) -> np.ndarray:
    """Logits [n, vocabulary], computed in chunks."""
    parts = []
    for start in range(0, len(tokens), chunk):
        part = np.array(tokens[start : start + chunk], np.int32)
        (found,) = decoder.run([Row(slot, start, part, len(part), full_logits=True)])
        assert found.logits is not None
        parts.append(found.logits)
    return np.concatenate(parts)


def greedy(decoder: Decoder, last: np.ndarray, past: int, count: int, *, slot: int = 1) -> list[int]:
    """Tokens behind ``past`` cached ones, whose last logits these are, one by one."""
    tokens = [int(last.argmax())]
    while len(tokens) < count and past < decoder.context_length:
        (found,) = decoder.run([Row(slot, past, np.array(tokens[-1:], np.int32), 1, full_logits=True)])
        assert found.logits is not None
        past += 1
        tokens.append(int(found.logits[-1].argmax()))
    return tokens


def assert_as_written(path: Path, folder: Path, tmp_path: Path, **options: Any) -> Checkpoint:
    """The checkpoint at ``path`` says what ref.json and ref_logits.npy of ``folder`` say: logits of the graph in chunks and of
    the reference, greedy tokens one by one, tokens of texts, and a rendered conversation. ``options`` as for `read`."""
    sample = json.loads((folder / "ref.json").read_text(encoding="utf-8"))
    expected = np.load(folder / "ref_logits.npy")
    checkpoint = read(path, **options)
    decoder = decoder_of(checkpoint, tmp_path)
    logits = prefill(decoder, sample["prompt_ids"])
    assert_same_logits(logits, expected)
    greedy_ids = greedy(decoder, logits[-1], len(sample["prompt_ids"]), len(sample["greedy_ids"]))
    assert greedy_ids == sample["greedy_ids"][: len(greedy_ids)]
    assert_same_logits(checkpoint.reference(np.array(sample["prompt_ids"])), expected)
    assert_tokenizer_as_written(checkpoint, sample)
    return checkpoint


def assert_same_logits(logits: np.ndarray, expected: np.ndarray) -> None:
    """Of the last positions, and of the tokens that both name: padding rows of a table are cut away."""
    columns = min(logits.shape[1], expected.shape[1])
    difference = np.abs(logits[-len(expected) :, :columns] - expected[:, :columns]).max()
    assert difference <= LARGEST_DIFFERENCE * max(1.0, float(expected.std()))


def assert_tokenizer_as_written(checkpoint: Checkpoint, sample: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.tokenizer_json)
    for check in sample.get("tokenizer_checks", ()):
        assert tokenizer.encode(check["text"], add_special_tokens=False).ids == check["ids"], check["text"]
    for text, number in sample.get("special", {}).items():
        assert tokenizer.token_to_id(text) == number
    if conversation := sample.get("chat_check"):
        messages = conversation["conversation"]["messages"]
        if messages[-1] == {"role": "assistant", "content": ""}:  # it is the model's turn
            messages = messages[:-1]
        assert checkpoint.tokenizer.chat_template is not None
        asked = {"messages": messages, "add_generation_prompt": True}
        text = render(compile_template(checkpoint.tokenizer.chat_template), asked)
        assert tokenizer.encode(text, add_special_tokens=False).ids == conversation["ids"]
