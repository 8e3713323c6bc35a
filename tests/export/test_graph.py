"""The graph computes what the model computes, however its tokens are cut into runs and batches."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from backends.onnx_decoder.decoder import Candidates, Decoder, Row
from export.checkpoint import Checkpoint
from export.checkpoints import read
from export.graph import write_graph
from export.quantize import PRECISIONS
from tests.export import samples
from tests.logits import assert_same

CONTRACT = Path(__file__).parents[2] / "docs" / "wire-contract.md"
SLOTS, CONTEXT, PROMPT = 6, 96, 48
TOLERANCE = 1e-3  # of a logit, against the original model in torch
KINDS: dict[str, Callable[[Path], samples.Logits]] = {
    "build-nanogpt": lambda path: samples.build_nanogpt(path / "model.pt"),
    "nanoGPT": lambda path: samples.nanogpt(path / "ckpt.pt"),
    "nanoGPT without bias": lambda path: samples.nanogpt(path / "ckpt.pt", bias=False),
    "Hugging Face GPT-2, untied": lambda path: samples.hf_gpt2(path, tie_word_embeddings=False, n_inner=96),
    "Hugging Face Llama": samples.hf_llama,
    "Hugging Face Llama, one wide kv head": lambda path: samples.hf_llama(path, head_dim=32, num_key_value_heads=1),
    "GGUF Q4_1": lambda path: samples.gguf_llama(path / "model.gguf", "Q4_1"),
    "GGUF Q8_0, untied": lambda path: samples.gguf_llama(path / "model.gguf", "Q8_0", tied=False),
}


@dataclass
class Exported:
    checkpoint: Checkpoint
    path: Path
    model: samples.Logits  # the original, in torch

    def decoder(self) -> Decoder:
        return Decoder(self.path, slots=SLOTS, context_length=CONTEXT, threads=1)

    def text(self, seed: int, count: int = PROMPT) -> np.ndarray:
        random = np.random.default_rng(seed)
        return random.integers(0, self.checkpoint.architecture.vocabulary_size, count).astype(np.int32)

    def truth(self, tokens: np.ndarray) -> np.ndarray:
        return self.model(tokens)[:, : self.checkpoint.architecture.vocabulary_size]


def exported(
    directory: Path, make: Callable[[Path], samples.Logits], precision: str = "fp32", *, query_seqlens: bool = True
) -> Exported:
    model = make(directory)
    files = [path for path in directory.iterdir() if path.suffix in (".pt", ".gguf")]
    checkpoint = read(files[0] if files else directory)
    path = directory / "model.onnx"
    write(path, checkpoint, precision, query_seqlens=query_seqlens)
    return Exported(checkpoint, path, model)


def write(path: Path, checkpoint: Checkpoint, precision: str = "fp32", *, query_seqlens: bool = True) -> None:
    write_graph(
        path,
        checkpoint.architecture,
        checkpoint.weights,
        PRECISIONS[precision],
        context_length=CONTEXT,
        candidates=64,
        query_seqlens=query_seqlens,
    )


@pytest.fixture(scope="module", params=KINDS, ids=str)
def fp32(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("fp32"), KINDS[request.param])


@pytest.fixture(scope="module", params=PRECISIONS, ids=str)
def llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("llama"), samples.hf_llama, request.param)


def run_one(decoder: Decoder, slot: int, past: int, tokens: np.ndarray) -> np.ndarray:
    """The logits of all the tokens."""
    return full(decoder.run([Row(slot, past, tokens, len(tokens), full_logits=True)])[0])


def full(candidates: Candidates) -> np.ndarray:
    assert candidates.logits is not None
    return candidates.logits


def test_prefill_gives_the_original_models_logits(fp32: Exported) -> None:
    tokens = fp32.text(0)
    np.testing.assert_allclose(run_one(fp32.decoder(), 2, 0, tokens), fp32.truth(tokens), atol=TOLERANCE)


def test_cached_decode_gives_the_original_models_logits(fp32: Exported) -> None:
    tokens, decoder = fp32.text(1), fp32.decoder()
    run_one(decoder, 1, 0, tokens[:20])
    steps = [run_one(decoder, 1, past, tokens[past : past + 1])[0] for past in range(20, PROMPT)]
    np.testing.assert_allclose(steps, fp32.truth(tokens)[20:], atol=TOLERANCE)


def test_greedy_text_is_exactly_the_original_models(fp32: Exported) -> None:
    decoder, tokens = fp32.decoder(), fp32.text(2, 8)
    expected = tokens
    for _ in range(24):
        expected = np.append(expected, np.int32(fp32.truth(expected)[-1].argmax()))
    past = 0
    while len(tokens) < len(expected):
        candidates = decoder.run([Row(0, past, tokens[past:])])[0]
        past, tokens = len(tokens), np.append(tokens, candidates.candidate_id[0, 0])
    assert tokens.tolist() == expected.tolist()


def test_a_prompt_in_chunks_gives_the_logits_of_the_whole_prompt(fp32: Exported) -> None:
    tokens, decoder = fp32.text(3), fp32.decoder()
    whole = run_one(decoder, 0, 0, tokens)
    cuts = [0, 17, 18, 41, PROMPT]
    chunks = [run_one(decoder, 3, start, tokens[start:end]) for start, end in pairwise(cuts)]
    np.testing.assert_allclose(np.concatenate(chunks), whole, atol=1e-4)


def test_verification_rows_with_ragged_pasts_give_the_original_models_logits(fp32: Exported) -> None:
    decoder, texts, pasts = fp32.decoder(), [fp32.text(seed) for seed in range(4)], [1, 11, 30, 44]
    for slot, (tokens, past) in enumerate(zip(texts, pasts, strict=True)):
        run_one(decoder, slot, 0, tokens[:past])
    rows = [Row(slot, past, texts[slot][past : past + 4], 4, full_logits=True) for slot, past in enumerate(pasts)]
    for slot, candidates in enumerate(decoder.run(rows)):
        expected = fp32.truth(texts[slot])[pasts[slot] : pasts[slot] + 4]
        np.testing.assert_allclose(full(candidates), expected, atol=TOLERANCE)


def test_rows_of_any_lengths_share_one_run(fp32: Exported) -> None:
    decoder, texts = fp32.decoder(), [fp32.text(seed) for seed in range(4)]
    pasts, counts = [0, 9, 30, 0], [3, 1, 4, PROMPT]
    for slot in (1, 2):
        run_one(decoder, slot, 0, texts[slot][: pasts[slot]])
    rows = [Row(slot, pasts[slot], texts[slot][pasts[slot] :][: counts[slot]], 1, full_logits=True) for slot in range(4)]
    for slot, candidates in enumerate(decoder.run(rows)):
        expected = fp32.truth(texts[slot])[pasts[slot] + counts[slot] - 1]
        np.testing.assert_allclose(full(candidates)[0], expected, atol=TOLERANCE)


def test_idle_slots_between_active_ones_keep_their_cache(fp32: Exported) -> None:
    decoder, texts = fp32.decoder(), [fp32.text(seed) for seed in range(4)]
    for slot, tokens in enumerate(texts):
        run_one(decoder, slot, 0, tokens[:30])
    for past in range(30, 36):
        decoder.run([Row(slot, past, texts[slot][past : past + 1]) for slot in (0, 3)])
    for slot in (1, 2):
        logits = run_one(decoder, slot, 30, texts[slot][30:31])[0]
        np.testing.assert_allclose(logits, fp32.truth(texts[slot])[30], atol=TOLERANCE)


def test_a_rolled_back_slot_forgets_what_was_cut_off(fp32: Exported) -> None:
    decoder, tokens, other = fp32.decoder(), fp32.text(5), fp32.text(6)
    run_one(decoder, 0, 0, np.concatenate([tokens[:20], other]))
    np.testing.assert_allclose(run_one(decoder, 0, 20, tokens[20:]), fp32.truth(tokens)[20:], atol=TOLERANCE)


def test_a_row_decodes_to_the_same_bits_alone_and_in_a_batch(llama: Exported) -> None:
    decoder, texts = llama.decoder(), [llama.text(seed) for seed in range(SLOTS)]
    pasts = [3, 40, 17, 5, 28, 11]
    for slot, tokens in enumerate(texts):
        run_one(decoder, slot, 0, tokens[: pasts[slot]])
    rows = [Row(slot, past, texts[slot][past : past + 1], 1, full_logits=True) for slot, past in enumerate(pasts)]
    together = decoder.run(rows)
    for row, candidates in zip(rows, together, strict=True):
        assert_same(full(candidates), full(decoder.run([row])[0]))


def test_a_row_decodes_to_the_same_bits_beside_a_verification_row(llama: Exported) -> None:
    decoder, texts = llama.decoder(), [llama.text(seed) for seed in range(3)]
    for slot, tokens in enumerate(texts):
        run_one(decoder, slot, 0, tokens[:20])
    rows = [Row(slot, 20, texts[slot][20 : 20 + count], 1, full_logits=True) for slot, count in enumerate([1, 4, 1])]
    together = decoder.run(rows)
    for slot in (0, 2):
        assert_same(full(together[slot]), full(decoder.run([rows[slot]])[0]))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_graph_without_query_seqlens_gives_the_same_logits(tmp_path: Path, precision: str) -> None:
    model = exported(tmp_path, samples.hf_llama, precision, query_seqlens=False)
    names = [value.name for value in onnx.load(str(model.path), load_external_data=False).graph.input]
    assert "query_seqlens" not in names
    plain, texts, pasts = model.decoder(), [model.text(seed) for seed in range(3)], [7, 31, 19]
    write(tmp_path / "with.onnx", model.checkpoint, precision)
    usual = Decoder(tmp_path / "with.onnx", slots=SLOTS, context_length=CONTEXT, threads=1)
    for decoder in (plain, usual):
        for slot in range(3):
            run_one(decoder, slot, 0, texts[slot][: pasts[slot]])
    rows = [Row(slot, past, texts[slot][past : past + 1], 1, full_logits=True) for slot, past in enumerate(pasts)]
    for got, expected in zip(plain.run(rows), usual.run(rows), strict=True):
        np.testing.assert_allclose(full(got), full(expected), atol=1e-5)


def test_candidates_are_the_largest_logits_in_order_with_their_normaliser(llama: Exported) -> None:
    candidates = llama.decoder().run([Row(0, 0, llama.text(7), PROMPT, full_logits=True)])[0]
    logits = full(candidates)
    largest = -np.sort(-logits, axis=-1)[:, :64]
    np.testing.assert_array_equal(candidates.candidate_logit, largest)
    np.testing.assert_array_equal(np.take_along_axis(logits, candidates.candidate_id.astype(np.int64), -1), largest)
    exact = np.log(np.exp(logits.astype(np.float64)).sum(-1))
    np.testing.assert_allclose(candidates.log_normalizer, exact, atol=1e-5)
    assert candidates.candidate_id.dtype == np.int32


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_vocabularys_padding_is_no_candidate_even_where_it_would_win(tmp_path: Path, precision: str) -> None:
    samples.build_nanogpt(tmp_path / "model.pt")
    checkpoint = read(tmp_path / "model.pt")
    count = checkpoint.architecture.vocabulary_size
    embedding = checkpoint.weights["embedding"]
    padded = np.concatenate([embedding[:count], np.full((47, embedding.shape[1]), 50, np.float32)])
    assert count == 50257
    write(tmp_path / "model.onnx", replace(checkpoint, weights={**checkpoint.weights, "embedding": padded}), precision)
    decoder = Decoder(tmp_path / "model.onnx", slots=1, context_length=CONTEXT, threads=1)
    candidates = decoder.run([Row(0, 0, np.arange(40, dtype=np.int32), 40, full_logits=True)])[0]
    assert full(candidates).shape == (40, count)
    assert candidates.candidate_id.max() < count


def test_the_graph_has_the_inputs_and_outputs_of_the_contract(fp32: Exported) -> None:
    graph = onnx.load(str(fp32.path), load_external_data=False).graph
    section = CONTRACT.read_text().split("## The ONNX graph")[1].split("\n## ")[0]
    tables = section.split("| output |")
    for table, values in zip(tables, (graph.input, graph.output), strict=True):
        promised = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`(.*?)`", row)}
        if "position_embedding" not in fp32.checkpoint.weights:
            promised.discard("positions")
        promised.discard("previous")
        found = {re.sub(r"\.\d+\.(key|value)", "", value.name) for value in values}
        assert found == {re.sub(r"\.\{i\}\.(key|value)", "", name) for name in promised if name != ".value"}


def test_the_graph_passes_the_checker_and_its_weights_are_page_aligned(llama: Exported) -> None:
    onnx.checker.check_model(str(llama.path), full_check=False)
    model = onnx.load(str(llama.path), load_external_data=False)
    external = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    offsets = [int(entry.value) for tensor in external for entry in tensor.external_data if entry.key == "offset"]
    assert offsets and all(offset % 4096 == 0 for offset in offsets)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_tied_head_is_stored_once(tmp_path: Path, precision: str) -> None:
    tied = exported(tmp_path, samples.hf_llama, precision)
    embedding = tied.checkpoint.weights["embedding"]
    write(
        tmp_path / "untied.onnx",
        replace(tied.checkpoint, weights={**tied.checkpoint.weights, "head.weight": embedding}),
        precision,
    )
    once, twice = ((tmp_path / f"{name}.onnx.data").stat().st_size for name in ("model", "untied"))
    assert twice - once >= embedding.size  # at least a byte a weight


def test_onnxruntime_shares_the_caches_address_between_past_and_present(llama: Exported) -> None:
    session = onnxruntime.InferenceSession(str(llama.path), providers=["CPUExecutionProvider"])
    shapes = {value.name: (value.type, value.shape) for value in [*session.get_inputs(), *session.get_outputs()]}
    for layer in range(llama.checkpoint.architecture.layers):
        for part in ("key", "value"):
            assert shapes[f"past_key_values.{layer}.{part}"] == shapes[f"present.{layer}.{part}"]
