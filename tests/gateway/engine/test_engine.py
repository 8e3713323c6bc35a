"""The engine on a real Triton: the same text alone and in a crowd, whole and in chunks, and after Triton was killed."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import replace

import pytest

from gateway.engine.engine import Engine
from gateway.engine.generation import GenerationRecord, GenerationRequest, SamplingParameters
from gateway.engine.replica import PROBE_TIMEOUT
from gateway.errors import BackendUnavailable, ContextLengthExceeded, InvalidRequest, Overloaded
from gateway.settings import Settings
from gateway.triton.client import TritonClient
from serve.triton_server import TritonServer
from tests.conftest import CHARACTERS, DEMO, TINY
from tests.gateway.engines import GREEDY, engine_on, engine_on_all, generated, in_mid_text, pieces_of, request, text_of, until
from tests.logits import WIDER_VECTORS

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_event_loop")]
RANDOM = SamplingParameters(temperature=0.9, top_k=40, top_p=0.95)
PENALISED = SamplingParameters(temperature=0.9, top_k=0, presence_penalty=0.5, frequency_penalty=0.3)
PROMPTS = ["The king", "你好，世界", "To be, or not to be, that is", "def main():\n    ", "🙂 Once upon a time there was"]


@pytest.mark.parametrize("sampling", [GREEDY, RANDOM, PENALISED], ids=["greedy", "random", "penalised"])
@pytest.mark.parametrize("name", [TINY] if WIDER_VECTORS else [TINY, DEMO])
async def test_text_is_the_same_alone_in_a_crowd_and_in_chunks(
    triton: TritonServer, name: str, sampling: SamplingParameters
) -> None:
    async with engine_on(triton, name) as engine, engine_on(triton, name, prefill_chunk=3) as chunked:
        requests = [request(engine, prompt, sampling) for prompt in PROMPTS]
        alone = [await text_of(engine, one) for one in requests]
        assert await asyncio.gather(*(text_of(engine, one) for one in requests)) == alone
        assert await asyncio.gather(*(text_of(chunked, one) for one in requests)) == alone


async def test_other_seeds_give_other_texts(triton: TritonServer) -> None:
    async with engine_on(triton) as engine:
        texts = {await text_of(engine, request(engine, "The king", RANDOM, seed=seed)) for seed in range(5)}
    assert len(texts) == 5


async def test_more_texts_than_slots_all_end(start_triton: Callable[..., AbstractContextManager[TritonServer]]) -> None:
    with start_triton(TINY, slots=2) as triton:
        async with engine_on(triton) as one, engine_on(triton) as other:
            expected = await text_of(one, request(one, "The king", GREEDY))
            texts = await asyncio.gather(*(text_of(engine, request(engine, "The king", GREEDY)) for engine in [one, other] * 5))
    assert texts == [expected] * 10


@pytest.mark.parametrize("sampling", [GREEDY, RANDOM], ids=["greedy", "random"])
@pytest.mark.parametrize("victim", ["server", "stub"])
async def test_killed_triton_does_not_lose_a_token(
    start_triton: Callable[..., AbstractContextManager[TritonServer]], sampling: SamplingParameters, victim: str
) -> None:
    with start_triton(TINY, slots=8) as triton:
        async with engine_on(triton) as engine:
            requests = [request(engine, prompt, sampling, tokens=200, ignore_eos=True) for prompt in PROMPTS]
            expected = [await text_of(engine, one) for one in requests]
            texts = asyncio.gather(*(text_of(engine, one) for one in requests))
            await in_mid_text(engine, len(PROMPTS))
            os.kill(triton.pid if victim == "server" else triton.stub_pids[0], signal.SIGKILL)
            await asyncio.to_thread(triton.stop)
            triton.start()
            assert await texts == expected


async def test_text_fails_when_triton_stays_away(start_triton: Callable[..., AbstractContextManager[TritonServer]]) -> None:
    with start_triton(TINY, slots=8) as triton:
        async with engine_on(triton, recovery_timeout=1) as engine:
            text = asyncio.ensure_future(text_of(engine, request(engine, "The king", GREEDY, 500, ignore_eos=True)))
            await in_mid_text(engine, 1)
            await asyncio.to_thread(triton.stop)
            with pytest.raises(BackendUnavailable):
                await text
            with pytest.raises(BackendUnavailable):
                await engine.probe()
            assert engine.running == 0


async def test_triton_that_restarts_with_fewer_slots_serves_on(
    start_triton: Callable[..., AbstractContextManager[TritonServer]],
) -> None:
    """``slots: auto`` depends on the memory that is free at the moment of a start."""
    with start_triton(TINY, slots=6) as before:
        async with TritonClient(before.grpc_address) as client:
            model = await client.describe(TINY)
    with start_triton(TINY, slots=2) as triton:
        async with TritonClient(triton.grpc_address) as client:
            engine = Engine(model, Settings())
            engine.add_replica(triton.grpc_address, client, model)
            texts = await asyncio.gather(*(text_of(engine, request(engine, "The king", GREEDY, 8)) for _ in range(6)))
            await engine.close(BackendUnavailable("The test is over."))
    assert len(set(texts)) == 1


async def test_stalled_triton_fails_texts_and_those_that_wait_within_the_timeout(
    start_triton: Callable[..., AbstractContextManager[TritonServer]],
) -> None:
    with start_triton(TINY, slots=2) as triton:
        stub = triton.stub_pids[0]
        async with engine_on_all([triton], step_timeout=1, recovery_timeout=1) as engine:
            texts = [asyncio.ensure_future(text_of(engine, request(engine, "The king", GREEDY, 500))) for _ in range(4)]
            await in_mid_text(engine, 2)
            os.kill(stub, signal.SIGSTOP)
            async with asyncio.timeout(10):
                ended = await asyncio.gather(*texts, return_exceptions=True)
            assert all(isinstance(end, BackendUnavailable) for end in ended)
        os.kill(stub, signal.SIGKILL)


@pytest.mark.slow
async def test_health_stays_good_while_a_long_step_runs(triton: TritonServer) -> None:
    async with engine_on(triton, DEMO, prefill_chunk=2000) as engine:
        prompt = GenerationRequest(list(range(1000, 1800)), 2, GREEDY)  # seconds of prefill
        text = asyncio.ensure_future(text_of(engine, prompt))
        while not text.done():
            await asyncio.sleep(0.3)
            await engine.probe()
        assert await text is not None


async def test_a_health_check_takes_nothing_of_what_is_cached(
    start_triton: Callable[..., AbstractContextManager[TritonServer]],
) -> None:
    with start_triton(TINY, slots=1) as triton:
        async with engine_on(triton) as engine:
            asked = request(engine, "To be, or not to be, that is the question: whether it is nobler", GREEDY, 20)
            first = await text_of(engine, asked)
            (replica,) = engine.replicas
            await until(lambda: replica._step_began is None)
            replica._last_answer = -PROBE_TIMEOUT  # else that would do
            await engine.probe()
            assert replica._last_answer > 0  # it was asked
            again, record = await generated(engine, asked)
    assert record.cached_tokens == len(asked.prompt_tokens) - 1
    assert "".join(piece.text for piece in again) == first


async def test_a_choice_that_has_ended_gives_its_slot_to_another_text(
    start_triton: Callable[..., AbstractContextManager[TritonServer]],
) -> None:
    """Though the request that it belongs to goes on."""
    with start_triton(TINY, slots=2) as triton:
        async with engine_on(triton) as engine:
            requests = [request(engine, "The king", PENALISED, tokens, ignore_eos=True) for tokens in (5, 900)]
            both = asyncio.ensure_future(pieces_of(engine, *requests))
            await in_mid_text(engine, 1, tokens=10)
            await text_of(engine, request(engine, "To be", GREEDY, 5))
            assert not both.done()
            both.cancel()
            await asyncio.gather(both, return_exceptions=True)


async def test_leaving_reader_frees_its_slot_at_once(start_triton: Callable[..., AbstractContextManager[TritonServer]]) -> None:
    with start_triton(TINY, slots=1) as triton:
        async with engine_on(triton) as engine:
            with closing(engine.generate([request(engine, "The king", GREEDY, tokens=500)], GenerationRecord())) as generation:
                assert await generation.take()
                assert engine.running == 1
            assert engine.running == 0
            assert await text_of(engine, request(engine, "The king", GREEDY, tokens=5))


async def test_full_queue_is_refused_and_says_when_to_come_again(triton: TritonServer) -> None:
    async with engine_on(triton, max_waiting=1) as engine:
        texts = [asyncio.ensure_future(text_of(engine, request(engine, "The king", GREEDY, tokens=500))) for _ in range(17)]
        await until(lambda: engine.running == 16)
        more = [asyncio.ensure_future(text_of(engine, request(engine, "The king", GREEDY))) for _ in range(3)]
        refused = [one for one in await asyncio.gather(*texts, *more, return_exceptions=True) if isinstance(one, Exception)]
    assert refused and all(isinstance(one, Overloaded) and one.retry_after == 1 for one in refused)


async def test_prompt_without_room_for_an_answer_is_refused(triton: TritonServer) -> None:
    async with engine_on(triton) as engine:
        context = engine.model.context_length
        with pytest.raises(ContextLengthExceeded, match=str(context)):
            await text_of(engine, GenerationRequest([1] * context, 5, GREEDY))
        with pytest.raises(InvalidRequest, match="no token"):
            await text_of(engine, GenerationRequest([], 5, GREEDY))
        last = (await pieces_of(engine, GenerationRequest([1] * (context - 1), 5, GREEDY)))[-1]
        assert (last.finish_reason, last.tokens) == ("length", 1)


async def test_stop_string_ends_the_text_before_it(triton: TritonServer) -> None:
    async with engine_on(triton, DEMO) as engine:
        whole = await text_of(engine, request(engine, "1, 2, 3, 4, 5, 6,", GREEDY, tokens=40))
        stop = whole[10:14]
        stopped = await text_of(engine, replace(request(engine, "1, 2, 3, 4, 5, 6,", GREEDY, tokens=40), stop=(stop,)))
    assert stopped == whole[: whole.index(stop)]


async def test_end_of_the_turn_ends_the_text(triton: TritonServer) -> None:
    async with engine_on(triton, DEMO) as engine:
        tokens = engine.model.tokenizer.apply_chat_template([{"role": "user", "content": "Say only: hello"}])
        pieces = await pieces_of(engine, GenerationRequest(tokens, 400, GREEDY))
    assert pieces[-1].finish_reason == "stop"
    assert "<|im_end|>" not in "".join(piece.text for piece in pieces)


async def test_character_models_go_on_and_refuse_unknown_characters(triton: TritonServer) -> None:
    async with engine_on(triton, CHARACTERS) as engine:
        assert len(await text_of(engine, request(engine, "a", RANDOM, tokens=20))) == 20
        with pytest.raises(InvalidRequest, match="vocabulary"):
            engine.model.tokenizer.encode("Ω")
