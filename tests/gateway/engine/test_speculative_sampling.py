"""What is drafted does not change the distribution of what is sampled: 20,000 texts at every draft of a real step."""

from collections.abc import Sequence as Tokens

import numpy as np
import pytest

from backends.onnx_decoder.contract.drawing import DrawingRule, Rules, sample, uniforms
from gateway.engine.engine import Engine
from gateway.engine.generation import GenerationRequest, SamplingParameters
from gateway.engine.sequence import Sequence
from gateway.engine.step import StepAnswer, StepRow
from gateway.engine.token_selection import select, selection_of
from serve.triton_server import TritonServer
from tests.conftest import DEMO
from tests.gateway.engines import GREEDY, engine_on, pieces_of, request

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_event_loop")]
TEXTS = 20_000
PROMPT = "Apples, pears, plums, apples, pears, plums, apples, pears, plums, apples,"
HOT = SamplingParameters(temperature=1.0, top_k=64)  # 64 candidates cross the wire


async def verified(engine: Engine, prompt: Tokens[int], drafts: Tokens[int]) -> tuple[StepRow, StepAnswer]:
    """One real step that verifies ``drafts`` behind a prompt."""
    tokens = np.array([*prompt, *drafts], np.int32)
    row = StepRow(99, 0, tokens, len(tokens), logit_count=1 + len(drafts), drafts=len(drafts))
    (replica,) = engine.replicas
    return row, await replica._backend.step(engine.model, [row], [99])


def sampled(engine: Engine, prompt: list[int], row: StepRow, answer: StepAnswer) -> list[list[int]]:
    """What texts of as many seeds get from that step: tokens of each up to the first that is not its draft."""
    generation = GenerationRequest(prompt, 100, HOT)  # without a seed
    texts, positions = [Sequence(generation, engine.model) for _ in range(TEXTS)], len(answer.candidate_id)
    return select([selection_of(text, row, answer.drawn, positions, answer.logits) for text in texts], answer)


def distribution(answer: StepAnswer, place: int) -> dict[int, float]:
    """Of the model's 64 most probable tokens at a position, at temperature 1."""
    logits = answer.candidate_logit[place].astype(np.float64)
    weights = np.exp(logits - logits.max())
    return dict(zip(answer.candidate_id[place].tolist(), (weights / weights.sum()).tolist(), strict=True))


def assert_drawn_from(tokens: list[int], expected: dict[int, float]) -> None:
    """Pearson's chi-square; the tokens too rare for it are one class."""
    assert set(tokens) <= set(expected)
    counts = {token: tokens.count(token) for token in set(tokens)}
    common = [token for token, share in expected.items() if share * len(tokens) >= 5]
    wanted = [len(tokens) * expected[token] for token in common]
    seen = [counts.get(token, 0) for token in common]
    if (rest := len(tokens) - sum(wanted)) > 0.5:
        wanted, seen = [*wanted, rest], [*seen, len(tokens) - sum(seen)]
    degrees = len(wanted) - 1
    chi_square = sum((one - other) ** 2 / other for one, other in zip(seen, wanted, strict=True))
    # Wilson and Hilferty (1931): (χ²/k)^⅓ is nearly normal; beyond 4.5 standard deviations lies 3e-6 of it.
    spread = 2 / (9 * max(degrees, 1))
    assert degrees == 0 or ((chi_square / degrees) ** (1 / 3) - (1 - spread)) / spread**0.5 < 4.5


async def drafts_for(engine: Engine, kind: str) -> tuple[list[int], list[int]]:
    """A prompt and three drafts: those that the model finds most probable, or the second of them wrong or impossible."""
    prompt = engine.model.tokenizer.encode(PROMPT)
    greedy = [
        one.token for piece in await pieces_of(engine, request(engine, PROMPT, GREEDY, 3, logprobs=0)) for one in piece.logprobs
    ]
    if kind == "probable":
        return prompt, greedy
    _, answer = await verified(engine, prompt, greedy)
    second = answer.candidate_id[1].tolist()
    unlikely = second[1] if kind == "unlikely" else next(token for token in range(1000, 9999) if token not in second)
    return prompt, [greedy[0], unlikely, greedy[2]]


@pytest.mark.parametrize("kind", ["probable", "unlikely", "impossible"])
async def test_every_token_behind_drafts_follows_the_models_distribution(triton: TritonServer, kind: str) -> None:
    async with engine_on(triton, DEMO) as engine:
        prompt, drafts = await drafts_for(engine, kind)
        row, answer = await verified(engine, prompt, drafts)
        texts = sampled(engine, prompt, row, answer)
    assert all(text[:-1] == drafts[: len(text) - 1] for text in texts)
    reached = [sum(len(text) > place for text in texts) for place in range(4)]
    assert reached[0] == TEXTS and reached[1] > 1000  # so that places behind drafts are tried too
    for place in range(4):
        expected = distribution(answer, place)
        assert_drawn_from([text[place] for text in texts if len(text) > place], expected)
        if place < 3:  # the rate of acceptance is the draft's probability
            share = expected.get(drafts[place], 0.0)
            deviation = reached[place + 1] - reached[place] * share
            assert abs(deviation) <= 4.5 * (reached[place] * share * (1 - share)) ** 0.5 + 1e-9
    assert (reached[2] == 0) if kind == "impossible" else (reached[2] > 0)


async def test_every_token_behind_a_run_ahead_follows_the_models_distribution(triton: TritonServer) -> None:
    """What the backend has drawn with one seed, verified by the draws of 20,000 others."""
    async with engine_on(triton, DEMO) as engine:
        prompt = engine.model.tokenizer.encode(PROMPT)
        row = StepRow(99, 0, np.array(prompt, np.int32), len(prompt), run_ahead=3, rule=DrawingRule(1.0, 64, 1.0, 0.0, seed=5))
        (replica,) = engine.replicas
        answer = await replica._backend.step(engine.model, [row], [99])
        texts = sampled(engine, prompt, row, answer)
    drawn = answer.drawn.tolist()
    assert len(drawn) == 3 and all(text[:-1] == drawn[: len(text) - 1] for text in texts)
    for place in range(4):
        reached = [text[place] for text in texts if len(text) > place]
        if len(reached) > 500:
            assert_drawn_from(reached, distribution(answer, place))
    assert sum(len(text) > 1 for text in texts) > 500


async def test_draws_at_neighbouring_places_are_independent(triton: TritonServer) -> None:
    """Of the texts that share their first token, the second ones differ as if nothing was known of the first draw."""
    async with engine_on(triton, DEMO) as engine:
        prompt, drafts = await drafts_for(engine, "probable")
        _, answer = await verified(engine, prompt, drafts)
    seeds, rules = np.random.default_rng(1).integers(0, 2**64, TEXTS, np.uint64), Rules.of([HOT] * TEXTS)
    firsts, seconds = (
        sample(
            np.tile(answer.candidate_id[ahead], (TEXTS, 1)),
            np.tile(answer.candidate_logit[ahead], (TEXTS, 1)),
            rules,
            uniforms(seeds, np.full(TEXTS, len(prompt) + ahead)),
        )
        for ahead in (0, 1)
    )
    hits = firsts == drafts[0]
    for mask in (hits, ~hits):
        assert_drawn_from(seconds[mask].tolist(), distribution(answer, 1))
