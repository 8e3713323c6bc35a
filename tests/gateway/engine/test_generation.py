"""One reader of several sequences: what it is given, when, and what ends them all."""

import asyncio
import logging
import time
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from gateway.engine.delivery import Delivery
from gateway.engine.generation import AnswerRecord, GenerationRecord, GenerationRequest, SamplingParameters
from gateway.errors import ContextLengthExceeded, InternalError
from serve.triton_server import TritonServer
from tests.gateway.engines import GREEDY, engine_on, generated, pieces_of, request, text_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_event_loop")]
BROKEN = SamplingParameters(0.9, top_k=40, top_p="hot")  # type: ignore[arg-type]


async def test_slow_reader_gets_all_since_its_last_piece_at_once(triton: TritonServer) -> None:
    async with engine_on(triton, run_ahead=0) as engine:
        asked = request(engine, "The king", GREEDY, 60)
        expected = await text_of(engine, asked)
        with closing(engine.generate([asked], GenerationRecord())) as generation:
            pieces = await generation.take()
            while engine.running:
                await asyncio.sleep(0.01)
            pieces += await generation.take()
            assert await generation.take() == []
    assert ("".join(piece.text for piece in pieces), len(pieces)) == (expected, 2)
    assert sum(piece.tokens for piece in pieces) == 60 and pieces[-1].finish_reason == "length"


async def test_pieces_of_several_answers_that_are_ready_are_taken_at_once(triton: TritonServer) -> None:
    async with engine_on(triton, run_ahead=0) as engine:
        copies = request(engine, "The king", GREEDY, 40).copies(4)
        with closing(engine.generate(copies, GenerationRecord())) as generation:
            taken = []
            while pieces := await generation.take():
                taken.append({piece.index for piece in pieces})
        assert {0, 1, 2, 3} in taken


async def test_whole_answers_come_together_each_in_one_piece_and_are_the_streamed_ones(triton: TritonServer) -> None:
    async with engine_on(triton, run_ahead=0) as engine:
        asked = [request(engine, "The king", GREEDY, tokens, logprobs=2) for tokens in (30, 5)]
        streamed = [await pieces_of(engine, one) for one in asked]
        with closing(engine.generate(asked, GenerationRecord(), whole=True)) as generation:
            answers = await generation.take()
            assert await generation.take() == []
    assert [answer.index for answer in answers] == [0, 1]
    for answer, pieces in zip(answers, streamed, strict=True):
        assert answer.text == "".join(piece.text for piece in pieces)
        assert [one.token for one in answer.logprobs] == [one.token for piece in pieces for one in piece.logprobs]


@pytest.mark.parametrize("whole", [True, False])
async def test_error_of_one_answer_ends_all_and_frees_their_slots(
    triton: TritonServer, whole: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine_on(triton, run_ahead=0) as engine:
        asked = request(engine, "The king", GREEDY, 900)
        ends: list[Exception | None] = []
        with caplog.at_level(logging.CRITICAL):
            generation = engine.generate(
                [asked, replace(asked, sampling=BROKEN), asked], GenerationRecord(), note_end=ends.append, whole=whole
            )
            with pytest.raises(InternalError) as raised:
                while await generation.take():
                    pass
        assert engine.idle and ends == [raised.value]
        assert await generation.take() == []


async def test_where_one_request_is_refused_none_goes_on(triton: TritonServer) -> None:
    async with engine_on(triton, run_ahead=0) as engine:
        good = request(engine, "The king", GREEDY, 900)
        bad = replace(good, prompt_tokens=[1] * engine.model.context_length)
        ends: list[Exception | None] = []
        with pytest.raises(ContextLengthExceeded) as raised:
            engine.generate([good, bad], GenerationRecord(), note_end=ends.append)
        assert engine.idle and ends == [raised.value]


async def test_reader_that_waits_hears_that_its_generation_was_closed(triton: TritonServer) -> None:
    async with engine_on(triton, run_ahead=0) as engine:
        generation = engine.generate([request(engine, "The king", GREEDY, 900)], GenerationRecord(), whole=True)
        reading = asyncio.ensure_future(generation.take())
        await asyncio.sleep(0.02)
        generation.close()
        assert await asyncio.wait_for(reading, 1) == [] and engine.idle and not generation.finished


@pytest.mark.parametrize("whole", [True, False])
async def test_every_token_is_noted_once_at_the_time_it_came(triton: TritonServer, whole: bool) -> None:
    noted: list[tuple[int, int, float]] = []
    record = GenerationRecord()

    def note(answer: AnswerRecord, tokens: int, now: float) -> None:
        assert (answer.last_token or 0) <= now
        noted.append((record.answers.index(answer), tokens, now))

    async with engine_on(triton, run_ahead=0) as engine:
        asked = request(engine, "The king", GREEDY, 40, ignore_eos=True).copies(2)
        generation = engine.generate(asked, record, note_tokens=note, whole=whole)
        while await generation.take():
            await asyncio.sleep(0.01)  # a slow reader changes no time
    for index, answer in enumerate(record.answers):
        mine = [(tokens, now) for which, tokens, now in noted if which == index]
        assert sum(tokens for tokens, _ in mine) == answer.tokens == 40
        assert (answer.first_token, answer.last_token) == (mine[0][1], mine[-1][1]) and len(mine) > 2
        assert answer.started is not None and answer.arrived <= answer.started < mine[0][1]


async def test_record_tells_what_was_asked_of_each_prompt_once(triton: TritonServer) -> None:
    """Copies of a prompt find what the first has just computed: that is no cached prompt of the request."""
    async with engine_on(triton, run_ahead=0) as engine:
        _, alone = await generated(engine, request(engine, "Never seen before, " * 9, GREEDY, 3))
        record = GenerationRecord(prompt_tokens=7, copies=3)
        generation = engine.generate(request(engine, "Nor this one either, " * 9, GREEDY, 3).copies(3), record)
        while await generation.take():
            pass
    assert record.cached_tokens == alone.cached_tokens < 16 < (record.answers[1].cached_tokens or 0)
    assert (record.completion_tokens, record.total_tokens, record.finish_reasons) == (9, 16, ["length"] * 3)


async def test_an_end_that_is_heard_of_twice_counts_once(triton: TritonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is chosen in a thread may come before its step's own readers are called: then both tell the end."""

    def slowly(delivery: Delivery, *args: Any) -> list[list[int]]:
        time.sleep(0.005)  # what the threads need
        return selected(delivery, *args)

    selected = Delivery._selected
    monkeypatch.setattr(Delivery, "_selected", slowly)
    penalised = SamplingParameters(0.9, top_k=40, presence_penalty=0.5)
    async with engine_on(triton) as engine:
        requests = [request(engine, "The king", penalised, tokens, ignore_eos=True, seed=tokens) for tokens in (5, 9, 30)]
        expected = [await text_of(engine, one) for one in requests]
        for _ in range(5):
            async with asyncio.timeout(20):
                pieces = await pieces_of(engine, *requests)
            ends = [piece.index for piece in pieces if piece.finish_reason is not None]
            assert sorted(ends) == [0, 1, 2]
            texts = ["".join(piece.text for piece in pieces if piece.index == index) for index in range(3)]
            assert texts == expected


@pytest.mark.parametrize("length", [2, 31, 32, 33, 34, 64, 65, 66])
async def test_a_prompt_of_any_length_is_scored_though_no_token_is_asked_for(triton: TritonServer, length: int) -> None:
    """Its last logprobs are known one token before its end."""
    async with engine_on(triton, run_ahead=25) as engine:
        await text_of(engine, request(engine, "The king", GREEDY, 5))  # what a step takes is known: texts may run ahead
        scored = GenerationRequest(list(range(100, 100 + length)), 0, GREEDY, logprobs=1, prompt_logprobs=1)
        (piece,) = await pieces_of(engine, scored)
    assert (len(piece.prompt_logprobs), piece.text, piece.finish_reason) == (length, "", "length")
