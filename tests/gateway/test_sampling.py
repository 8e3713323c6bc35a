"""Sampling is exact: against a plain reference over the full distribution, for every combination of rules."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.generation import SamplingParameters
from gateway.sampling import candidates_of, needs_full_logits, sample, uniforms

VOCABULARY = 40


def reference_distribution(logits: np.ndarray, parameters: SamplingParameters, generated: Counter[int]) -> np.ndarray:
    """The rules written down one after another, over the whole vocabulary."""
    logits = logits.astype(np.float64)
    for token, count in generated.items():
        logits[token] -= parameters.frequency_penalty * count + parameters.presence_penalty
    if parameters.temperature == 0:
        return np.eye(len(logits))[logits.argmax()]
    logits = logits / parameters.temperature
    if parameters.top_k:
        logits = np.where(logits >= np.sort(logits)[-min(parameters.top_k, len(logits))], logits, -np.inf)
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    order = np.argsort(-probability)
    before = np.cumsum(probability[order]) - probability[order]
    probability[order[1:][before[1:] >= parameters.top_p]] = 0
    return probability / probability.sum()


def draw(
    logits: np.ndarray, parameters: SamplingParameters, generated: Counter[int], k: int, uniform: np.ndarray
) -> np.ndarray:
    """Draws as the engine does: from the k candidates where they are enough, else from the full row."""
    if needs_full_logits(parameters, k):
        ids, values = candidates_of(logits, parameters, generated)
    else:
        ids = np.argsort(-logits, kind="stable")[:k].astype(np.int32)
        values = logits[ids]
    n = len(uniform)
    rows = [np.full(n, value) for value in (parameters.temperature, parameters.top_k, parameters.top_p)]
    return sample(np.tile(ids, (n, 1)), np.tile(values, (n, 1)), *rows, uniform)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 0.7, 1.0, 2.0])
@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 1.0), (0, 0.9), (5, 1.0), (8, 0.6), (1, 0.5), (30, 0.95), (60, 1.0), (0, 0.0), (5, 0.0)]
)
@pytest.mark.parametrize("penalties", [(0.0, 0.0), (1.5, 0.0), (-1.0, 0.7)])
def test_draws_follow_the_full_distribution(
    temperature: float, top_k: int, top_p: float, penalties: tuple[float, float]
) -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 2, VOCABULARY).astype(np.float32)
    parameters = SamplingParameters(temperature, top_k, top_p, *penalties)
    generated = Counter({3: 2, int(logits.argmax()): 4})
    expected = reference_distribution(logits, parameters, generated)
    # Evenly spaced uniforms hit each token in exact proportion, so the comparison needs no statistical tolerance.
    n = 20_000
    counts = np.bincount(draw(logits, parameters, generated, 16, (np.arange(n) + 0.5) / n), minlength=VOCABULARY)
    assert np.abs(counts / n - expected).max() < 2 / n + 1e-6
    assert not counts[expected == 0].any()


def test_random_draws_pass_a_chi_square_test() -> None:
    logits = np.random.default_rng(2).normal(0, 1.5, VOCABULARY).astype(np.float32)
    parameters = SamplingParameters(temperature=0.9, top_k=10, top_p=0.95)
    expected = reference_distribution(logits, parameters, Counter())
    n = 50_000
    uniform = uniforms(np.full(n, 1234, np.uint64), np.arange(n))
    counts = np.bincount(draw(logits, parameters, Counter(), 16, uniform), minlength=VOCABULARY)
    kept = expected > 0
    chi_square = ((counts[kept] - n * expected[kept]) ** 2 / (n * expected[kept])).sum()
    assert chi_square < 30  # 9 degrees of freedom: p = 0.0004


def test_rows_do_not_influence_each_other() -> None:
    generator = np.random.default_rng(3)
    logits = -np.sort(-generator.normal(0, 2, (16, 20)))
    ids = np.argsort(generator.random((16, 20)), axis=1).astype(np.int32)
    rows = [generator.uniform(0, 1.5, 16), generator.integers(1, 20, 16), generator.uniform(0.1, 1, 16), generator.random(16)]
    together = sample(ids, logits, *rows)
    alone = [sample(ids[i : i + 1], logits[i : i + 1], *(row[i : i + 1] for row in rows))[0] for i in range(16)]
    assert together.tolist() == alone


def test_uniforms_are_even_and_unrelated_between_neighbouring_seeds() -> None:
    streams = np.stack([uniforms(np.full(20_000, seed, np.uint64), np.arange(20_000)) for seed in (0, 1, 2**64 - 1)])
    assert streams.min() >= 0 and streams.max() < 1
    assert np.abs(np.histogram(streams, 50, (0, 1))[0] / streams.size * 50 - 1).max() < 0.1
    correlations = np.corrcoef(streams)
    assert np.abs(correlations - np.eye(3)).max() < 0.03


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=30),
    st.floats(0, 2),
    st.integers(0, 40),
    st.floats(0, 1),
    st.floats(0, 1, exclude_max=True),
)
def test_any_parameters_choose_a_token_that_is_allowed(
    values: list[float], temperature: float, top_k: int, top_p: float, u: float
) -> None:
    logits = np.array(values, np.float32)
    parameters = SamplingParameters(temperature, top_k, top_p)
    token = draw(logits, parameters, Counter(), 64, np.array([u]))[0]
    assert 0 <= token < len(values)
    if temperature == 0 or top_k == 1 or top_p == 0:
        assert logits[token] == logits.max()
