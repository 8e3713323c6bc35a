"""Sampling is exact: against a plain reference over the full distribution, for every combination of rules."""

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.onnx_decoder.contract.drawing import Rules, sample, uniforms
from gateway.engine.generation import SamplingParameters
from gateway.engine.sampling import changed_logits, needs_full_logits, sample_whole

VOCABULARY = 40


def reference_distribution(
    logits: np.ndarray, rules: SamplingParameters, generated: Counter[int], allowed: np.ndarray | None = None
) -> np.ndarray:
    """The rules written down one after another, over the whole vocabulary."""
    logits = logits.astype(np.float64)
    for token, bias in rules.logit_bias.items():
        logits[token] += bias
    for token, count in generated.items():
        logits[token] = (
            logits[token] / rules.repetition_penalty if logits[token] > 0 else logits[token] * rules.repetition_penalty
        )
        logits[token] -= rules.frequency_penalty * count
        logits[token] -= rules.presence_penalty
    if allowed is not None:
        logits = np.where(allowed, logits, -np.inf)
    if rules.temperature == 0:
        return np.eye(len(logits))[logits.argmax()]
    logits = logits / rules.temperature
    if rules.top_k:
        logits = np.where(logits >= np.sort(logits)[-min(rules.top_k, len(logits))], logits, -np.inf)
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    order = np.argsort(-probability)
    before = np.cumsum(probability[order]) - probability[order]
    probability[order[1:][before[1:] >= rules.top_p]] = 0
    probability[probability < rules.min_p * probability.max()] = 0
    return probability / probability.sum()


def draw(
    logits: np.ndarray,
    parameters: SamplingParameters,
    generated: Counter[int],
    k: int,
    uniform: np.ndarray,
    allowed: np.ndarray | None = None,
) -> np.ndarray:
    """Draws as the engine does: from the k candidates where they are enough, else from the whole row."""
    if allowed is not None or needs_full_logits(parameters, k):
        return sample_whole(changed_logits(logits, parameters, generated, allowed), parameters, uniform)
    ids = np.argsort(-logits, kind="stable")[:k].astype(np.int32)
    n = len(uniform)
    return sample(np.tile(ids, (n, 1)), np.tile(logits[ids], (n, 1)), Rules.of([parameters] * n), uniform)


FILTERS: list[dict[str, Any]] = [
    {"top_k": 0},
    {"top_k": 0, "top_p": 0.9},
    {"top_k": 5},
    {"top_k": 8, "top_p": 0.6},
    {"top_k": 1, "top_p": 0.5},
    {"top_k": 30, "top_p": 0.95},
    {"top_k": 60},
    {"top_k": 0, "top_p": 0.0},
    {"top_k": 5, "top_p": 0.0},
    {"top_k": 0, "min_p": 0.1},
    {"top_k": 10, "min_p": 0.3},
    {"top_k": 10, "top_p": 0.8, "min_p": 0.05},
    {"top_k": 0, "min_p": 1.0},
]
CHANGES: list[dict[str, Any]] = [
    {},
    {"presence_penalty": 1.5},
    {"presence_penalty": -1.0, "frequency_penalty": 0.7},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.5, "frequency_penalty": -0.3},
    {"logit_bias": {0: 100.0, 7: -100.0}},
    {"logit_bias": {3: 2.5, 11: -1.0}, "repetition_penalty": 1.2, "presence_penalty": 0.4, "frequency_penalty": 0.2},
]


def case() -> tuple[np.ndarray, Counter[int]]:
    logits = np.random.default_rng(1).normal(0, 2, VOCABULARY).astype(np.float32)
    return logits, Counter({3: 2, int(logits.argmax()): 4, int(logits.argmin()): 1})


def test_draws_follow_the_full_distribution() -> None:
    """Of every temperature, filter and change together, with a mask and without."""
    logits, generated = case()
    # Evenly spaced uniforms hit each token in exact proportion, so the comparison needs no statistical tolerance.
    n = 5_000
    uniform = (np.arange(n) + 0.5) / n
    mask = np.arange(VOCABULARY) % 3 != 0
    for temperature, filters, changes, allowed in product([0.0, 0.3, 1.0, 2.0], FILTERS, CHANGES, [None, mask]):
        parameters = SamplingParameters(temperature, **filters, **changes)
        expected = reference_distribution(logits, parameters, generated, allowed)
        counts = np.bincount(draw(logits, parameters, generated, 16, uniform, allowed), minlength=VOCABULARY)
        assert np.abs(counts / n - expected).max() < 2 / n + 1e-6, (parameters, allowed)
        assert not counts[expected == 0].any(), (parameters, allowed)


def test_random_draws_pass_a_chi_square_test() -> None:
    """The uniforms of real generations: one seed each, at the same position of the sequence."""
    logits, generated = case()
    n = 20_000
    uniform = uniforms(np.arange(n, dtype=np.uint64), np.full(n, 17))
    for filters, changes in product(FILTERS, CHANGES):
        parameters = SamplingParameters(0.9, **filters, **changes)
        expected = reference_distribution(logits, parameters, generated)
        counts = np.bincount(draw(logits, parameters, generated, 16, uniform), minlength=VOCABULARY)
        assert not counts[expected == 0].any(), parameters
        common = n * expected >= 5  # where the statistic follows its distribution; the rest is one more class
        observed, wanted = counts[common], n * expected[common]
        if (~common).any() and (rest := n * expected[~common].sum()) > 0.5:
            observed, wanted = np.append(observed, counts[~common].sum()), np.append(wanted, rest)
        degrees = len(wanted) - 1
        if degrees:
            # Wilson and Hilferty (1931): (χ²/k)^⅓ is nearly normal; 4.5 standard deviations are p = 3e-6 for each case.
            spread = 2 / (9 * degrees)
            chi_square = ((observed - wanted) ** 2 / wanted).sum()
            assert ((chi_square / degrees) ** (1 / 3) - (1 - spread)) / spread**0.5 < 4.5, parameters


def test_rows_do_not_influence_each_other() -> None:
    generator = np.random.default_rng(3)
    logits = -np.sort(-generator.normal(0, 2, (16, 20)))
    ids = np.argsort(generator.random((16, 20)), axis=1).astype(np.int32)
    columns = (
        generator.uniform(0, 1.5, 16),
        generator.integers(1, 20, 16),
        generator.uniform(0.1, 1, 16),
        generator.uniform(0, 0.2, 16),
    )
    rules = Rules(np.stack(columns, axis=1))
    uniform = generator.random(16)
    together = sample(ids, logits, rules, uniform)
    alone = [sample(ids[i : i + 1], logits[i : i + 1], rules[i : i + 1], uniform[i : i + 1])[0] for i in range(16)]
    assert together.tolist() == alone


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.05, 2), st.floats(0.1, 8), st.sampled_from([0.0, 0.3, 0.9, 1.0]), st.floats(0, 0.5))
def test_a_whole_row_is_drawn_from_as_if_it_were_sorted(
    seed: int, temperature: float, spread: float, top_p: float, min_p: float
) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, spread, 3_000)
    logits[generator.integers(0, 3_000, 200)] = logits[0]  # equal ones
    logits[generator.integers(0, 3_000, 500)] = -np.inf
    for top_k in (0, 7, 700, 5_000):
        parameters = SamplingParameters(temperature, top_k, top_p, min_p)
        order = np.argsort(-logits, kind="stable").astype(np.int32)
        for u in generator.random(5):
            uniform = np.array([u])
            expected = sample(order[None], logits[order][None], Rules.of([parameters]), uniform)
            assert sample_whole(logits, parameters, uniform) == expected


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
    st.floats(0, 1),
    st.floats(0, 1, exclude_max=True),
)
def test_any_parameters_choose_a_token_that_is_allowed(
    values: list[float], temperature: float, top_k: int, top_p: float, min_p: float, u: float
) -> None:
    logits = np.array(values, np.float32)
    parameters = SamplingParameters(temperature, top_k, top_p, min_p)
    token = draw(logits, parameters, Counter(), 64, np.array([u]))[0]
    assert 0 <= token < len(values)
    if temperature == 0 or top_k == 1 or top_p == 0 or min_p == 1:
        assert logits[token] == logits.max()
