"""Graphs that read the token before each one, as nanochat's do: the same bits however a text is computed.

Windows of its layers are shorter than the texts, and layers turn positions by two tables, one of them backwards.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backends.onnx_decoder import decoder as decoder_module
from backends.onnx_decoder.contract.drawing import DrawingRule
from backends.onnx_decoder.contract.step import StepRow
from backends.onnx_decoder.decoder import Decoder, Row
from export.checkpoint import Architecture, Rotary
from export.graph import write_graph
from export.quantize import PRECISIONS
from tests.backend.in_process import Backend
from tests.backend.rows import crowd, logits, short_prefills
from tests.backend.test_devices import Elsewhere, bind_copies
from tests.logits import WIDER_VECTORS

VOCABULARY, CONTEXT, SLOTS = 96, 128, 8
TOKENS = np.random.default_rng(3).integers(0, VOCABULARY, CONTEXT).astype(np.int32)
GREEDY = DrawingRule(0.0, 0, 1.0, 0.0, 0)
WINDOWS = (5, 17, None, 1, None)
QUERY_SEQLENS, NONE = True, False  # as on the CPU, and where the runtime has no such input

ARCHITECTURE = Architecture(
    layers=len(WINDOWS),
    heads=4,
    kv_heads=2,
    head_dim=16,
    width=64,
    mlp_width=128,
    vocabulary_size=VOCABULARY,
    context_length=CONTEXT,
    norm="rms",
    norm_epsilon=1e-6,
    activation="relu2",
    rotary=(
        Rotary(tuple(float(one) for one in -(1000.0 ** -(np.arange(8) / 8)))),
        Rotary(tuple(float(one) for one in 10.0 ** -(np.arange(8) / 8)), scale=1.1),
    ),
    layer_rotary=(0, 1, 0, 1, None),
    layer_window=WINDOWS,
    logit_softcap=15.0,
    residual_scales=((1.1, 0.2), (1.0, 0.1), (0.9, 0.0), (1.2, -0.3), (1.0, 0.1)),
    backout=(2, 0.2),
    smear=0.9,
)


def weights() -> dict[str, np.ndarray]:
    shape, draw = ARCHITECTURE, np.random.default_rng(5)
    kv_width = shape.kv_heads * shape.head_dim

    def weight(*sizes: int, scale: float = 1.0) -> np.ndarray:
        return (draw.standard_normal(sizes) * scale / np.sqrt(sizes[-1])).astype(np.float32)

    made = {"embedding": weight(VOCABULARY, shape.width), "head.weight": weight(VOCABULARY, shape.width, scale=4.0)}
    made |= {"smear_gate": weight(1, 24, scale=4.0)}
    made |= {f"{name}_norm.weight": np.ones(shape.width, np.float32) for name in ("embedding", "final")}
    for layer in range(shape.layers):
        name = f"layers.{layer}"
        made |= {f"{name}.{part}_norm.weight": np.ones(shape.width, np.float32) for part in ("attention", "mlp")}
        made |= {f"{name}.{part}_norm.weight": np.full(shape.head_dim, 1.2, np.float32) for part in "qk"}
        made[f"{name}.qkv.weight"] = weight(shape.width + 2 * kv_width, shape.width)
        made[f"{name}.attention_out.weight"] = weight(shape.width, shape.width)
        made[f"{name}.mlp_up.weight"] = weight(shape.mlp_width, shape.width)
        made[f"{name}.mlp_down.weight"] = weight(shape.width, shape.mlp_width)
        if layer % 2:
            made[f"{name}.value_embedding"] = weight(VOCABULARY, kv_width, scale=4.0)
            made[f"{name}.value_gate"] = weight(shape.kv_heads, 12, scale=4.0)
    return made


def written(directory: Path, architecture: Architecture, *, query_seqlens: bool = True) -> Path:
    path = directory / "model.onnx"
    write_graph(
        path,
        architecture,
        weights(),
        PRECISIONS["fp32"],
        context_length=CONTEXT,
        candidates=16,
        query_seqlens=query_seqlens,
    )
    return path


@pytest.fixture(scope="module", params=[QUERY_SEQLENS, NONE], ids=["query_seqlens", "without"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("previous"), ARCHITECTURE, query_seqlens=request.param)


@pytest.fixture(scope="module")
def decoder(model: Path) -> Decoder:
    return Decoder(model, slots=SLOTS, context_length=CONTEXT, threads=1)


@pytest.fixture(scope="module")
def backend(model: Path) -> Backend:
    return Backend(model, SLOTS, CONTEXT)


def assert_same(one: np.ndarray, other: np.ndarray) -> None:
    """To the last bit, with wider vectors to rounding: see tests/logits.py. A wrong token before one changes far more."""
    assert one.shape == other.shape
    if WIDER_VECTORS:
        assert np.abs(one - other).max() < 1e-4 * other.std()
    else:
        np.testing.assert_array_equal(one, other)


def test_a_token_is_seen_by_the_one_behind_it_alone(tmp_path: Path) -> None:
    """Where attention sees nothing but a query's own key: what is before it comes through the graph's input."""
    alone = replace(ARCHITECTURE, layer_window=(1,) * ARCHITECTURE.layers)
    decoder = Decoder(written(tmp_path, alone), slots=2, context_length=CONTEXT, threads=1)
    whole, changed = logits(decoder, (0, 0, TOKENS[:3])), np.array([(TOKENS[0] + 1) % VOCABULARY, *TOKENS[1:3]])
    for other in (logits(decoder, (1, 0, changed)), [logits(decoder, (1, place, [changed[place]])) for place in range(3)]):
        other = np.concatenate([*other]).reshape(whole.shape)
        assert np.abs(other[1] - whole[1]).max() > 0.1 * whole.std()
        assert_same(other[2], whole[2])


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 8, 9, 16, 17, 33, 65])
def test_chunks_give_the_bits_of_the_whole(decoder: Decoder, chunk: int) -> None:
    """Their borders lie everywhere in the windows."""
    whole = logits(decoder, (0, 0, TOKENS))
    pieces = [logits(decoder, (3, start, TOKENS[start : start + chunk])) for start in range(0, CONTEXT, chunk)]
    assert_same(np.concatenate(pieces), whole)


def test_a_text_begins_anew_in_a_slot_that_held_another(decoder: Decoder) -> None:
    whole = logits(decoder, (0, 0, TOKENS[:20]))
    logits(decoder, (4, 0, TOKENS[::-1]))
    assert_same(logits(decoder, (4, 0, TOKENS[:20])), whole)
    for place in range(20):
        assert_same(logits(decoder, (4, place, TOKENS[place : place + 1])), whole[place : place + 1])


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]])
def test_crowds_give_the_bits_of_one_alone(decoder: Decoder, order: list[int]) -> None:
    assert_same(*crowd(decoder, TOKENS, order))


def test_short_prefills_in_one_pass_give_the_bits_of_each_alone(decoder: Decoder) -> None:
    assert_same(*short_prefills(decoder, TOKENS, [7, 0, 3, 5]))


def test_drafts_that_are_rolled_back_leave_nothing_behind(decoder: Decoder) -> None:
    whole, wrong = logits(decoder, (0, 0, TOKENS[:40])), (TOKENS + 7) % VOCABULARY
    logits(decoder, (1, 0, TOKENS[:10]))
    for past in range(10, 36, 3):
        drafts = [*TOKENS[past : past + 2], *wrong[past : past + 3]]  # the second token is the last good one
        assert_same(logits(decoder, (1, past, drafts))[:2], whole[past : past + 2])
        assert_same(logits(decoder, (1, past + 2, TOKENS[past + 2 : past + 3])), whole[past + 2 : past + 3])


def test_a_copied_prefix_knows_its_last_token(decoder: Decoder) -> None:
    """Also where the copy goes over a longer text, and a copy is copied."""
    whole = logits(decoder, (0, 0, TOKENS))
    logits(decoder, (5, 0, TOKENS[::-1]))
    for length in (1, 5, 17, 64):
        decoder.copy_prefix(0, 5, length)
        decoder.copy_prefix(5, 6, length)
        assert_same(logits(decoder, (6, length, TOKENS[length : length + 12])), whole[length : length + 12])


def test_idle_slots_keep_what_they_hold(decoder: Decoder) -> None:
    whole = logits(decoder, (0, 0, TOKENS[:40]))
    logits(decoder, (2, 0, TOKENS[:30]))
    for step in range(5):
        logits(decoder, (1, step, TOKENS[step : step + 1]), (3, step, TOKENS[step : step + 1]))
    assert_same(logits(decoder, (2, 30, TOKENS[30:40])), whole[30:])


def test_context_is_usable_to_its_last_position(decoder: Decoder) -> None:
    whole = logits(decoder, (0, 0, TOKENS))
    logits(decoder, (1, 0, TOKENS[:-2]))
    for past in (CONTEXT - 2, CONTEXT - 1):
        assert_same(logits(decoder, (1, past, TOKENS[past : past + 1])), whole[past : past + 1])


def test_a_device_that_copies_its_inputs_gets_this_one_with_every_step(
    model: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = logits(decoder, (0, 0, TOKENS[:30]))
    monkeypatch.setattr(decoder_module, "_bind_inputs", bind_copies)
    elsewhere = Decoder(model, slots=2, context_length=CONTEXT, device=Elsewhere(), threads=1)
    (_,) = elsewhere.run([Row(1, 0, TOKENS[:20])])
    for past in range(20, 30):
        (found,) = elsewhere.run([Row(1, past, TOKENS[past : past + 1])])
        assert_same(found.candidate_logit[0], np.sort(whole[past])[::-1][: elsewhere.candidate_count])


def test_rows_that_run_ahead_draw_what_steps_of_one_draw(backend: Backend) -> None:
    """In a crowd, behind prompts of unlike lengths; and what is drawn is a prefix of the next turn."""
    backend.forget()
    prompts = [TOKENS[start : start + length] for start, length in ((0, 20), (30, 9), (50, 33))]
    alone = []
    for prompt in prompts:
        written = prompt
        answer = backend.step(StepRow(9, 0, prompt, 4096, rule=GREEDY))
        for _ in range(12):
            token = answer.candidate_id[:1, 0]
            answer = backend.step(StepRow(9, len(written), token, 4096, rule=GREEDY))
            written = np.append(written, token)
        alone.append(written)
        backend.step(release=[9])
    backend.forget()
    answer = backend.step(*(StepRow(id_, 0, prompt, 4096, run_ahead=12, rule=GREEDY) for id_, prompt in enumerate(prompts, 1)))
    drawn = np.split(answer.drawn, answer.drawn_count.cumsum()[:-1])
    assert [one.tolist() for one in drawn] == [text[-12:].tolist() for text in alone]
    turns = [np.append(text, TOKENS[:3]) for text in alone]
    answer = backend.step(*(StepRow(id_, 0, turn, 4096, rule=GREEDY) for id_, turn in enumerate(turns, 11)))
    assert (answer.reused_length >= [len(text) - 1 for text in alone]).all()
    reused = answer.candidate_logit.copy()
    backend.forget()
    fresh = backend.step(*(StepRow(id_, 0, turn, 4096, rule=GREEDY) for id_, turn in enumerate(turns, 11)))
    assert (fresh.reused_length == 0).all()
    assert_same(reused, fresh.candidate_logit)


def test_a_health_check_is_no_part_of_a_text(backend: Backend) -> None:
    backend.forget()
    prompt = TOKENS[:20]
    answer = backend.step(StepRow(1, 0, prompt, 4096, rule=GREEDY))
    expected = backend.step(StepRow(1, 20, answer.candidate_id[:1, 0], 4096, rule=GREEDY)).candidate_logit
    backend.step()
    again = backend.step(StepRow(1, 20, answer.candidate_id[:1, 0], 4096, rule=GREEDY)).candidate_logit
    assert_same(again, expected)
