"""Texts with drafts, or with a run-ahead, are those without, byte for byte, whatever is asked for and whatever Triton meets."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from gateway.engine import delivery
from gateway.engine.engine import Engine
from gateway.engine.generation import Delta, GenerationRecord, GenerationRequest, SamplingParameters
from gateway.engine.step import StepAnswer
from gateway.engine.step_costs import StepCosts
from gateway.engine.token_selection import Selection, select
from gateway.text.grammar import Grammar
from serve.triton_server import TritonServer
from tests.conftest import DEMO, TINY
from tests.gateway.engines import GREEDY, engine_on, generated, in_mid_text, pieces_of, request, until
from tests.logits import WIDER_VECTORS

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_event_loop", "free_drafts")]
RANDOM = SamplingParameters(temperature=0.9, top_k=40, top_p=0.95)
COOL = SamplingParameters(temperature=0.4, top_k=20, min_p=0.05)
PENALISED = SamplingParameters(temperature=0.9, presence_penalty=0.5)
WHOLE = SamplingParameters(temperature=0.9, top_k=0)
REPEATED = "one two three four five six seven eight nine ten. " * 6  # so that there is something to draft
PROMPTS = [REPEATED, REPEATED + "one", "The king " * 9, "def main():\n    " * 4, "To be, or not to be, that is"]
NONE = {"speculation": False, "run_ahead": 0}
MODELS = [TINY] if WIDER_VECTORS else [TINY, DEMO]


class Guesses:
    """Of one kind: the settings that make an engine have them, and how many were made and accepted."""

    def __init__(self, kind: str) -> None:
        self.settings = {"speculation": kind == "drafts", "run_ahead": 1000 * (kind == "run-ahead")}
        self.made = self.accepted = 0

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Counts them where they are verified."""

        def watched(selections: list[Selection], answer: StepAnswer) -> list[list[int]]:
            selected = select(selections, answer)
            self.made += sum(len(one.guesses) for one in selections)
            self.accepted += sum(len(tokens) - 1 for tokens in selected)
            return selected

        monkeypatch.setattr(delivery, "select", watched)


@pytest.fixture(params=["drafts", "run-ahead"])
def guesses(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Guesses:
    kind = Guesses(request.param)
    kind.watch(monkeypatch)
    return kind


@pytest.fixture
def free_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device where larger steps cost nothing: every guess is drafted, whatever this machine measures."""
    monkeypatch.setattr(StepCosts, "known", True)
    monkeypatch.setattr(StepCosts, "of", lambda _, tokens: np.ones(len(tokens)))


class Outcome(NamedTuple):
    text: str
    tokens: int
    reason: str | None
    chosen: list[int]  # the tokens whose log-probabilities were returned
    logprobs: list[float | None]  # of each of them

    @classmethod
    def of(cls, pieces: list[Delta]) -> "Outcome":
        text, tokens = "".join(piece.text for piece in pieces), sum(piece.tokens for piece in pieces)
        scored = [one for piece in pieces for one in piece.logprobs]
        return cls(text, tokens, pieces[-1].finish_reason, [one.token for one in scored], [one.logprob for one in scored])


def assert_same(texts: list[Outcome], expected: list[Outcome]) -> None:
    """Log-probabilities but for float32's last bits: a sum over the vocabulary may be another for several positions."""
    for one, other in zip(texts, expected, strict=True):
        assert one[:-1] == other[:-1] and one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


async def outcomes(engine: Engine, *requests: GenerationRequest) -> list[Outcome]:
    """All at once: what each becomes."""
    return [Outcome.of(pieces) for pieces in await asyncio.gather(*(pieces_of(engine, one) for one in requests))]


async def compared(triton: TritonServer, name: str, guesses: Guesses, *requests: GenerationRequest) -> list[Outcome]:
    """The texts, which are the same with guesses and without; then ``guesses`` says how many these had."""
    async with engine_on(triton, name, **NONE) as plain, engine_on(triton, name, **guesses.settings) as engine:
        expected = await outcomes(plain, *requests)
        guesses.made = guesses.accepted = 0
        texts = await outcomes(engine, *requests)
        assert_same(texts, expected)
        return texts


@pytest.mark.parametrize("sampling", [GREEDY, COOL, RANDOM], ids=["greedy", "cool", "random"])
@pytest.mark.parametrize("name", MODELS)
async def test_texts_and_logprobs_are_the_same_alone_and_in_a_crowd(
    triton: TritonServer, guesses: Guesses, name: str, sampling: SamplingParameters
) -> None:
    async with engine_on(triton, name) as engine:
        requests = [request(engine, prompt, sampling, tokens=40 if name == TINY else 24, logprobs=2) for prompt in PROMPTS]
    crowd = await compared(triton, name, guesses, *requests)
    assert guesses.accepted > 0
    few = list(zip(crowd, requests, strict=True))[:: 1 if name == TINY else 3]  # a real model's steps take their time
    for expected, one in few:
        assert_same(await compared(triton, name, guesses, one), [expected])


async def test_texts_of_any_length_end_where_they_should(triton: TritonServer, guesses: Guesses) -> None:
    """So every place within a step's drafts is once the last."""
    async with engine_on(triton) as engine:
        requests = [request(engine, REPEATED, GREEDY, tokens, logprobs=0) for tokens in range(1, 41)]
    texts = await compared(triton, TINY, guesses, *requests)
    assert [one.tokens for one in texts] == list(range(1, 41)) and {one.reason for one in texts} == {"length"}
    assert all(texts[-1].text.startswith(one.text) for one in texts) and guesses.accepted > 100


async def test_stop_strings_anywhere_end_the_text_before_them(triton: TritonServer, guesses: Guesses) -> None:
    varied = replace(COOL, temperature=0.1)  # repeats itself, but not at once
    async with engine_on(triton, **NONE) as plain:
        ((whole, *_),) = await outcomes(plain, request(plain, PROMPTS[-1], varied, 60))
        stops = [whole[place : place + size] for place in range(0, len(whole) - 5, 11) for size in (1, 2, 5)]
        requests = [request(plain, PROMPTS[-1], varied, 60, stop=(stop,), logprobs=0) for stop in stops]
    texts = await compared(triton, TINY, guesses, *requests)
    assert [one.text for one in texts] == [whole[: whole.index(stop)] for stop in stops]
    assert {one.reason for one in texts} == {"stop"} and guesses.accepted > 0


async def test_end_tokens_end_the_text_and_may_be_kept_from_it(triton: TritonServer, guesses: Guesses) -> None:
    async with engine_on(triton, DEMO) as engine:
        chat = engine.model.tokenizer.apply_chat_template([{"role": "user", "content": "Say only: hello hello hello hello"}])
    asked = GenerationRequest(chat * 2, 60, GREEDY, seed=7, logprobs=0)  # the drafts know the end of a turn
    requests = [asked, replace(asked, ignore_eos=True), replace(asked, min_tokens=40)]
    if not WIDER_VECTORS:
        texts = await compared(triton, DEMO, guesses, *requests)
        assert texts[0].reason == "stop" and texts[1].tokens == 60 and texts[2].tokens >= 40 and guesses.accepted > 0


async def test_texts_that_need_all_their_tokens_in_turn_draft_none_and_are_the_same(
    triton: TritonServer, guesses: Guesses
) -> None:
    async with engine_on(triton) as engine:
        grammar = engine.model.compile_grammar(Grammar("regex", "(one two ){3,20}"))
        requests = [
            request(engine, REPEATED, PENALISED, 40),
            request(engine, REPEATED, WHOLE, 40, logprobs=2),
            request(engine, REPEATED, GREEDY, 40, grammar=grammar),
            request(engine, REPEATED, GREEDY, 40, min_tokens=40),
        ]
        own = [request(engine, prompt, GREEDY, 40) for prompt in PROMPTS]
    await compared(triton, TINY, guesses, *requests)
    assert guesses.made == 0
    await compared(triton, TINY, guesses, *requests, *own)  # in one step with texts that draft
    assert guesses.accepted > 0


async def test_prompts_are_scored_and_choices_are_shared_as_without_drafts(triton: TritonServer, guesses: Guesses) -> None:
    async with engine_on(triton) as engine:
        scored = request(engine, REPEATED, COOL, 30, logprobs=1, prompt_logprobs=1)
        only = replace(scored, max_tokens=0)
        choices = [replace(request(engine, REPEATED, COOL, 30), prompt_tokens=scored.prompt_tokens, seed=n) for n in range(6)]
    await compared(triton, TINY, guesses, scored, only, *choices)
    assert guesses.accepted > 0


async def test_drafts_end_with_the_context(triton: TritonServer, guesses: Guesses) -> None:
    async with engine_on(triton) as engine:
        context = engine.model.context_length
        prompts = [(engine.model.tokenizer.encode(REPEATED) * 50)[: context - room] for room in (1, 2, 3, 9, 30)]
    requests = [GenerationRequest(prompt, 500, GREEDY, seed=7) for prompt in prompts]
    texts = await compared(triton, TINY, guesses, *requests)
    assert [one.tokens for one in texts] == [1, 2, 3, 9, 30] and {one.reason for one in texts} == {"length"}
    assert guesses.accepted > 0


@pytest.mark.parametrize(("victim", "sampling"), [("server", COOL), ("stub", GREEDY)], ids=["server", "stub"])
async def test_killed_triton_does_not_lose_a_token(
    start_triton: Callable[..., AbstractContextManager[TritonServer]],
    guesses: Guesses,
    victim: str,
    sampling: SamplingParameters,
) -> None:
    with start_triton(TINY, slots=8) as triton:
        async with engine_on(triton, **NONE) as plain, engine_on(triton, **guesses.settings) as engine:
            requests = [request(engine, prompt, sampling, 700, logprobs=0, ignore_eos=True) for prompt in PROMPTS]
            expected = await outcomes(plain, *requests)
            guesses.made = guesses.accepted = 0
            texts = asyncio.gather(*(generated(engine, one) for one in requests))
            await until(lambda: guesses.accepted >= 20)
            await in_mid_text(engine, len(PROMPTS), tokens=1)
            os.kill(triton.pid if victim == "server" else triton.stub_pids[0], signal.SIGKILL)
            await asyncio.to_thread(triton.stop)
            triton.start()
            answers = await texts
        assert_same([Outcome.of(pieces) for pieces, _ in answers], expected)
        assert sum(len(answer.recoveries) for _, record in answers for answer in record.answers) >= len(PROMPTS)


async def test_more_texts_than_slots_and_another_gateways_texts_change_nothing(
    start_triton: Callable[..., AbstractContextManager[TritonServer]], guesses: Guesses
) -> None:
    """Slots are taken away between a text's steps, so its cache is found unknown, and rows of two gateways share steps."""
    with start_triton(TINY, slots=2) as triton:
        async with (
            engine_on(triton, **NONE) as plain,
            engine_on(triton, **guesses.settings) as one,
            engine_on(triton, **guesses.settings) as other,
        ):
            requests = [request(one, prompt, COOL, tokens=60, logprobs=0) for prompt in PROMPTS]
            expected = await outcomes(plain, *requests)
            answers = await asyncio.gather(outcomes(one, *requests), outcomes(other, *requests))
    for texts in answers:
        assert_same(texts, expected)
    assert guesses.accepted > 0


async def test_leaving_reader_of_a_drafting_text_frees_its_slot_at_once(triton: TritonServer, guesses: Guesses) -> None:
    async with engine_on(triton, **guesses.settings) as engine:
        with closing(engine.generate([request(engine, REPEATED, GREEDY, tokens=500)], GenerationRecord())) as generation:
            for _ in range(5):
                assert await generation.take()
            assert engine.running == 1
        assert engine.running == 0
        texts = await outcomes(engine, request(engine, REPEATED, GREEDY, tokens=20))
    assert texts[0].tokens == 20 and guesses.accepted > 0


async def test_drafts_and_those_accepted_are_counted_and_what_ran_ahead_is_not(triton: TritonServer, guesses: Guesses) -> None:
    async with engine_on(triton, **guesses.settings) as engine:
        _, record = await generated(engine, request(engine, REPEATED, GREEDY, 60, ignore_eos=True))
    (answer,) = record.answers
    assert guesses.accepted > 0
    assert (answer.drafted, answer.accepted) == (
        (guesses.made, guesses.accepted) if guesses.settings["speculation"] else (0, 0)
    )
