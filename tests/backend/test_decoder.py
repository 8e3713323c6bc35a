"""The decoder's promise: a row's logits are the same to the last bit, however it is computed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backends.onnx_decoder.decoder import Decoder, Row
from tests.backend.rows import crowd, logits, short_prefills
from tests.conftest import DEMO, ROOT, TINY, version_directory
from tests.logits import assert_same

TOKENS = np.random.default_rng(11).integers(0, 49152, 40).astype(np.int32)


@pytest.fixture(scope="module", params=[TINY, DEMO])
def decoder(request: pytest.FixtureRequest, model_repository: Path) -> Decoder:
    return Decoder(version_directory(model_repository, request.param) / "model.onnx", slots=8, context_length=256)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 8, 9, 25])
def test_chunks_give_the_bits_of_the_whole(decoder: Decoder, chunk: int) -> None:
    whole = logits(decoder, (0, 0, TOKENS))
    pieces = [logits(decoder, (3, start, TOKENS[start : start + chunk])) for start in range(0, len(TOKENS), chunk)]
    assert_same(np.concatenate(pieces), whole)


@pytest.mark.parametrize("past", [0, 5])
def test_prefills_of_every_length_give_the_bits_of_tokens_one_by_one(decoder: Decoder, past: int) -> None:
    tokens = np.resize(TOKENS[::-1], 70)
    single = [logits(decoder, (0, place, tokens[place : place + 1])) for place in range(len(tokens))]
    for end in range(past + 1, len(tokens) + 1):
        decoder.copy_prefix(0, 4, past)
        (found,) = decoder.run([Row(4, past, tokens[past:end], full_logits=True)])
        assert found.logits is not None
        assert_same(found.logits, single[end - 1])


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]])
def test_crowds_give_the_bits_of_one_alone(decoder: Decoder, order: list[int]) -> None:
    assert_same(*crowd(decoder, TOKENS, order))


@pytest.mark.parametrize("slots", [[0, 1, 2, 3], [7, 0, 3, 5]])
def test_short_prefills_in_one_pass_give_the_bits_of_each_alone(decoder: Decoder, slots: list[int]) -> None:
    assert_same(*short_prefills(decoder, np.resize(TOKENS, 70), slots))


def test_short_prefills_at_the_end_of_the_context_write_over_nothing(decoder: Decoder) -> None:
    """Padded to the longest of them, the last chunk of a full context would not fit into its slot."""
    tokens = np.resize(TOKENS, decoder.context_length)
    whole = logits(decoder, (0, 0, tokens))
    logits(decoder, (1, 0, tokens[:-10]))
    logits(decoder, (2, 0, tokens[:10]))
    found = logits(decoder, (1, 246, tokens[246:]), (3, 0, tokens[:60]), (2, 10, tokens[10:60]))
    assert_same(found, np.concatenate([whole[246:], whole[:60], whole[10:60]]))


def test_idle_slots_keep_what_they_hold(decoder: Decoder) -> None:
    whole = logits(decoder, (0, 0, TOKENS))
    logits(decoder, (2, 0, TOKENS[:30]))
    for step in range(5):
        logits(decoder, (1, step, TOKENS[step : step + 1]), (3, step, TOKENS[step : step + 1]))
    assert_same(logits(decoder, (2, 30, TOKENS[30:])), whole[30:])


def test_copied_prefix_gives_the_bits_of_a_computed_one(decoder: Decoder) -> None:
    whole = logits(decoder, (0, 0, TOKENS))
    decoder.copy_prefix(0, 5, 17)
    assert_same(logits(decoder, (5, 17, TOKENS[17:])), whole[17:])


def test_context_is_usable_to_its_last_position(decoder: Decoder) -> None:
    tokens = np.resize(TOKENS, decoder.context_length)
    whole = logits(decoder, (0, 0, tokens))
    logits(decoder, (1, 0, tokens[:-2]))
    assert_same(logits(decoder, (1, 254, tokens[254:255])), whole[254:255])
    assert_same(logits(decoder, (1, 255, tokens[255:])), whole[255:])


def test_full_slots_and_rows_at_the_context_end_do_not_disturb_a_batch(decoder: Decoder) -> None:
    """Attention wants room for a batch's longest row behind every row's past."""
    tokens = np.resize(TOKENS, decoder.context_length)
    whole = logits(decoder, (0, 0, tokens))
    logits(decoder, (1, 0, tokens))  # full, and idle in the next run
    logits(decoder, (2, 0, tokens[:-1]))
    logits(decoder, (3, 0, tokens[:20]))
    crowd = logits(decoder, (0, 30, tokens[30:38]), (2, 255, tokens[255:]), (3, 20, tokens[20:25]))
    assert_same(crowd, np.concatenate([whole[30:38], whole[255:], whole[20:25]]))
    assert_same(logits(decoder, (1, 255, tokens[255:])), whole[255:])


def test_a_chunk_without_wanted_positions_gives_none(decoder: Decoder) -> None:
    (found,) = decoder.run([Row(0, 0, TOKENS, 0)])
    assert found.candidate_id.shape == (0, 64) and found.log_normalizer.shape == (0,)


def test_steps_of_other_rows_between_do_not_change_a_rows_next(decoder: Decoder) -> None:
    """What is prepared for a set of rows is used again for the same set only: by slots, by tokens, by what is wanted."""
    whole = logits(decoder, (0, 0, TOKENS))
    for slot in (1, 2, 5):
        logits(decoder, (slot, 0, TOKENS[:20]))
    for step, slots in enumerate([(1, 2), (1, 2), (2, 1), (1, 5), (5,), (1, 2, 5), (2, 1)]):
        past = 20 + step
        for slot in set(range(6)) - set(slots):
            decoder.copy_prefix(0, slot, past)
        found = decoder.run([Row(slot, past, TOKENS[past : past + 1], 1 - (slot == 5)) for slot in slots])
        assert [len(one.candidate_id) for one in found] == [1 - (slot == 5) for slot in slots]
        best = whole[past].argmax()
        assert all(one.candidate_id[0, 0] == best for one in found if len(one.candidate_id))
        for slot in slots:
            decoder.copy_prefix(0, slot, past + 1)


def test_onnx_runtime_reports_to_nobody(model_repository: Path, tmp_path: Path) -> None:
    """Its telemetry begins with an identifier that it writes into the user's and the temporary directory."""
    model = version_directory(model_repository, TINY) / "model.onnx"
    uses = f"from pathlib import Path; Decoder(Path({str(model)!r}), slots=1, context_length=8)"
    elsewhere = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    elsewhere |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # nor does this test report anything
    environment = {"PATH": os.environ["PATH"]} | elsewhere  # where CI is set, it is off anyway
    for written, script in (
        (True, f"import onnxruntime; onnxruntime.InferenceSession({str(model)!r})"),  # else this test would show nothing
        (False, f"from backends.onnx_decoder.decoder import Decoder; {uses}"),
    ):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True, timeout=60)
        assert any(tmp_path.rglob("*")) is written
