"""The contract of both sides: what is sent is what is read, and both draw the same tokens."""

import ast
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.onnx_decoder.contract.drawing import DrawingRule, Rules, sample, uniforms
from backends.onnx_decoder.contract.request import Limits, encode_answer, merge, read_step
from backends.onnx_decoder.contract.step import StepAnswer, StepRow, decode_answer, encode_step
from backends.onnx_decoder.contract.tensors import INPUTS, OUTPUTS

CONTRACT = Path(__file__).resolve().parent.parent / "backends" / "onnx_decoder" / "contract"
LIMITS = Limits(context_length=64, vocabulary_size=100)
FINGERPRINT = "0f" * 32
ROWS = [
    StepRow(2**64 - 1, 9, np.array([99], np.int32), 1, run_ahead=3, rule=DrawingRule(0.8, 40, 0.9, 0.1, 2**64 - 1)),
    StepRow(7, 0, np.array([1, 2, 3], np.int32), 16, 2, full_logits=True, drafts=1),
    StepRow(8, 5, np.array([4, 5], np.int32), 1, 0, ignore_end=True),
]


def test_it_imports_numpy_and_itself_alone() -> None:
    imported = set()
    for path in CONTRACT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level <= 1
                imported |= {node.module or ""} if node.level == 0 else set()
    assert imported == {"numpy", "collections.abc", "dataclasses", "itertools", "typing"}


def test_a_step_is_read_as_it_was_meant() -> None:
    inputs = encode_step(ROWS, [5, 6], FINGERPRINT, 25_000)
    assert {name: array.dtype for name, array in inputs.items()} == {name: INPUTS[name].dtype for name in inputs}
    step = read_step(inputs, LIMITS)
    rows = step.rows
    assert (step.release, step.fingerprint, step.time_budget) == ([5, 6], 0x0F0F0F0F0F0F0F0F, 25_000)
    assert rows.sequence_id == [2**64 - 1, 7, 8]
    assert rows.past_length.tolist() == [9, 0, 5] and rows.token_count.tolist() == [1, 3, 2]
    assert rows.token_limit.tolist() == [1, 16, 1] and rows.logit_count.tolist() == [1, 2, 0]
    assert rows.full_logits.tolist() == [0, 1, 0] and rows.ignore_end.tolist() == [0, 0, 1]
    assert rows.tokens.tolist() == [99, 1, 2, 3, 4, 5] and rows.run_ahead.tolist() == [3, 0, 0]
    assert rows.rule[0].tolist() == [0.8, 40, 0.9, 0.1] and rows.seed[0] == 2**64 - 1


def test_what_is_empty_is_not_sent() -> None:
    assert encode_step([], [], FINGERPRINT).keys() == {"fingerprint"}
    assert encode_step(ROWS[1:], [], FINGERPRINT, 25_000).keys() == {"fingerprint", "sequence_id", "rows", "tokens"}


def test_rows_of_merged_requests_follow_each_other() -> None:
    parts = [read_step(encode_step(rows, [], FINGERPRINT), LIMITS).rows for rows in (ROWS[:1], ROWS[1:])]
    whole = read_step(encode_step(ROWS, [], FINGERPRINT), LIMITS).rows
    merged = merge(parts)
    assert merged.sequence_id == whole.sequence_id and merged.tokens.tolist() == whole.tokens.tolist()
    assert merged.past_length.tolist() == whole.past_length.tolist() and merged.seed.tolist() == whole.seed.tolist()
    assert merged.rule.tolist() == whole.rule.tolist()


def test_an_answer_is_read_as_it_was_meant() -> None:
    answer = StepAnswer(
        cached_length=np.array([13, -1, 3]),
        reused_length=np.array([9, 0, 0]),
        drawn_count=np.array([3, 0, 0]),
        candidate_id=np.arange(10, dtype=np.int32).reshape(5, 2),
        candidate_logit=np.arange(10, dtype=np.float32).reshape(5, 2),
        log_normalizer=np.arange(5, dtype=np.float32),
        logits=np.arange(3, dtype=np.float32)[None],
        drawn=np.arange(3, dtype=np.int32),
    )
    outputs = encode_answer(answer)
    assert {name: array.dtype for name, array in outputs.items()} == {name: OUTPUTS[name].dtype for name in outputs}
    assert all(len(array) == 1 and array.ndim == 1 + len(OUTPUTS[name].shape) for name, array in outputs.items())
    read = decode_answer(outputs)
    for name in StepAnswer.__slots__:
        np.testing.assert_array_equal(getattr(read, name), getattr(answer, name))


def drawn_by_formula(ids: np.ndarray, logits: np.ndarray, rules: list[DrawingRule], uniform: np.ndarray) -> np.ndarray:
    """Every rule on every row, whether it needs it or not: as tokens have always been drawn."""
    temperature, top_k, top_p, min_p = np.array([rule[:4] for rule in rules], np.float64).T
    rank = np.arange(logits.shape[1])
    kept_by_k = np.where(top_k > 0, top_k, len(rank))[:, None]
    with np.errstate(over="ignore"):
        scaled = (logits - logits[:, :1]) / np.where(temperature > 0, temperature, 1.0)[:, None]
    weight = np.where(rank < kept_by_k, np.exp(scaled, dtype=np.float64), 0.0)
    cumulative = np.cumsum(weight, axis=1)
    before = cumulative - weight
    kept = (before < top_p[:, None] * cumulative[:, -1:]) & (weight >= min_p[:, None])
    weight = np.where(kept | (rank == 0), weight, 0.0)
    cumulative = np.cumsum(weight, axis=1)
    chosen = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(axis=1)
    chosen = np.where(temperature > 0, np.minimum(chosen, (weight > 0).sum(axis=1) - 1), 0)
    return np.asarray(ids[np.arange(len(chosen)), chosen])


rules = st.builds(
    DrawingRule,
    temperature=st.sampled_from([0.0, 1e-300, 1e-3, 0.7, 0.8, 1.0, 2.0, 1e300]),
    top_k=st.sampled_from([0, 1, 2, 7, 40, 64, 1000]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 1e-12, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 2**64 - 1),
)
alike = st.tuples(rules, st.integers(1, 9)).map(lambda drawn: [drawn[0]] * drawn[1])


@settings(max_examples=1000, deadline=None)
@given(
    st.one_of(alike, st.lists(rules, min_size=1, max_size=9)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.01, 1.0, 30.0, 1e4]),
)
def test_draws_are_those_of_the_formula_for_every_mix_of_rows(rows: list[DrawingRule], seed: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    ids = random.permuted(np.tile(np.arange(64, dtype=np.int32), (len(rows), 1)), axis=1)
    logits = -np.sort(-random.normal(0, spread, (len(rows), 64)).astype(np.float32), axis=1)
    uniform = random.choice([0.0, 2.0**-53, 0.5, 1 - 2.0**-53, *random.random(4)], len(rows))
    drawn = sample(ids, logits, Rules.of(rows), uniform)
    assert drawn.dtype == np.int32
    assert drawn.tolist() == drawn_by_formula(ids, logits, rows, uniform).tolist()
    alone = [
        sample(ids[n : n + 1], logits[n : n + 1], Rules.of(rows[n : n + 1]), uniform[n : n + 1])[0] for n in range(len(rows))
    ]
    assert drawn.tolist() == alone


def test_uniform_numbers_are_those_of_the_stream_however_many_are_asked_for() -> None:
    seeds, positions = np.array([0, 1, 2**64 - 1], np.uint64), np.arange(40)
    table = uniforms(seeds[:, None], 5 + positions)
    assert table.shape == (3, 40) and (table >= 0).all() and (table < 1).all()
    assert [[float(uniforms(seeds[n : n + 1], np.array([5 + p]))[0]) for p in positions] for n in range(3)] == table.tolist()
    assert table[0, 0] == 0.32732576421812576  # or a seed would mean another text than in an earlier version
