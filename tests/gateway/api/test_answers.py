"""What an engine tells besides text: log-probabilities, cached tokens, several choices; and when a text may end."""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace

import numpy as np
import pytest

from gateway.engine.engine import Engine
from gateway.engine.generation import GenerationRecord, SamplingParameters, TokenLogprob
from gateway.engine.step import StepRow
from gateway.errors import InvalidRequest
from gateway.text.grammar import Grammar
from serve.triton_server import TritonServer
from tests.conftest import DEMO
from tests.gateway.engines import GREEDY, engine_on, generated, pieces_of, request, text_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_event_loop")]
HOT = SamplingParameters(temperature=1.5, top_k=0)
SHAPED = SamplingParameters(
    1.2, 40, 0.95, presence_penalty=0.8, frequency_penalty=0.4, repetition_penalty=1.3, logit_bias={262: 3.0, 13: -100.0}
)
LONG_PROMPT = "It is a truth universally acknowledged, that a single man in possession of a good fortune must want a wife. " * 3


async def log_softmax(engine: Engine, tokens: Sequence[int]) -> np.ndarray:
    """float64 [tokens, vocabulary]: of all positions, from the whole logits of one step that no engine took part in."""
    row = StepRow(99, 0, np.array(tokens, np.int32), len(tokens), logit_count=len(tokens), full_logits=True)
    (replica,) = engine._replicas.values()
    logits = (await replica._backend.step(engine.model, [row], [99])).logits.astype(np.float64)
    return (
        logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(-1, keepdims=True)
    )


def assert_told_truly(told: Sequence[TokenLogprob], expected: np.ndarray, alternatives: int) -> None:
    """``expected`` [tokens, vocabulary]: log-probabilities of the positions before the tokens."""
    assert len(told) == len(expected)
    for one, row in zip(told, expected, strict=True):
        assert one.logprob == pytest.approx(row[one.token], abs=2e-3)
        best = np.sort(row)[::-1][:alternatives]
        assert [other.logprob for other in one.top] == pytest.approx(best.tolist(), abs=2e-3)
        assert [row[other.token] for other in one.top] == pytest.approx(best.tolist(), abs=2e-3)


@pytest.mark.parametrize("sampling", [GREEDY, HOT, SHAPED], ids=["greedy", "hot", "shaped"])
async def test_logprobs_are_the_models_own_before_any_rule(triton: TritonServer, sampling: SamplingParameters) -> None:
    async with engine_on(triton) as engine:
        asked = request(engine, "The king said", sampling, 12, logprobs=5, prompt_logprobs=5)
        pieces = await pieces_of(engine, asked)
        told = [one for piece in pieces for one in piece.logprobs]
        prompt = pieces[0].prompt_logprobs
        expected = await log_softmax(engine, asked.prompt_tokens + [one.token for one in told])
    assert (prompt[0].token, prompt[0].logprob, prompt[0].top) == (asked.prompt_tokens[0], None, ())
    assert [one.token for one in prompt] == asked.prompt_tokens
    assert_told_truly(prompt[1:], expected[: len(prompt) - 1], 5)
    assert_told_truly(told, expected[len(prompt) - 1 : -1], 5)


async def test_asking_for_logprobs_does_not_change_the_text(triton: TritonServer) -> None:
    async with engine_on(triton) as engine:
        plain = request(engine, LONG_PROMPT, SHAPED)
        assert await text_of(engine, replace(plain, logprobs=20, prompt_logprobs=20)) == await text_of(engine, plain)


async def test_texts_of_tokens_told_joined_are_the_text_that_was_shown_also_at_a_stop_string(triton: TritonServer) -> None:
    async with engine_on(triton, DEMO) as engine:
        whole = await text_of(engine, request(engine, "1, 2, 3, 4, 5, 6,"))
        for place in (3, 7, 10):
            asked = request(engine, "1, 2, 3, 4, 5, 6,", logprobs=0, stop=(whole[place : place + 4],))
            pieces = await pieces_of(engine, asked)
            shown, told = "", ""
            for piece in pieces:
                shown += piece.text
                told += "".join(one.text for one in piece.logprobs)
                assert told.startswith(shown)
            assert shown == whole[: whole.index(whole[place : place + 4])]
            assert told.rstrip() == shown.rstrip() or len(told) - len(shown) < 4  # a token may lie across the border


async def test_prompt_can_be_scored_without_generating(triton: TritonServer) -> None:
    async with engine_on(triton, prefill_chunk=7) as engine:
        asked = request(engine, LONG_PROMPT, tokens=0, prompt_logprobs=0)
        (piece,) = await pieces_of(engine, asked)
        expected = await log_softmax(engine, asked.prompt_tokens)
    assert (piece.text, piece.tokens, piece.finish_reason) == ("", 0, "length")
    assert_told_truly(piece.prompt_logprobs[1:], expected[:-1], 0)


async def test_many_choices_of_a_scored_prompt_share_steps(
    start_triton: Callable[..., AbstractContextManager[TritonServer]],
) -> None:
    """Each asks for the logits of many positions, of which a step has a bounded number."""
    with start_triton("tiny-gpt2", slots=24) as triton:
        async with engine_on(triton, prefill_chunk=2000) as engine:
            for _ in range(4):  # what steps take is known then, and that many tokens of prompts may take part
                await asyncio.gather(*(text_of(engine, request(engine, f"{n} {LONG_PROMPT}", tokens=20)) for n in range(2)))
            asked = request(engine, LONG_PROMPT, tokens=4, prompt_logprobs=0)
            answers = await asyncio.gather(*(pieces_of(engine, asked) for _ in range(24)))
    assert len(asked.prompt_tokens) > 32
    assert {len(pieces[0].prompt_logprobs) for pieces in answers} == {len(asked.prompt_tokens)}


async def test_prompt_that_fills_the_context_can_be_scored(triton: TritonServer) -> None:
    async with engine_on(triton) as engine:
        asked = replace(request(engine, "a", tokens=0, prompt_logprobs=0), prompt_tokens=[5] * engine.model.context_length)
        (piece,) = await pieces_of(engine, asked)
    assert len(piece.prompt_logprobs) == engine.model.context_length


async def test_second_request_is_told_how_much_of_its_prompt_was_cached(triton: TritonServer) -> None:
    async with engine_on(triton) as engine:
        asked = request(engine, f"Cached or not. {LONG_PROMPT}", tokens=3)
        first, again = [(await generated(engine, asked))[1].cached_tokens for _ in range(2)]
        longer = replace(asked, prompt_tokens=[*asked.prompt_tokens, 11, 12, 13])
        assert first < 16 and again == len(asked.prompt_tokens) - 1
        assert (await generated(engine, longer))[1].cached_tokens >= len(asked.prompt_tokens)


async def test_choices_share_the_computation_of_their_prompt_and_differ(triton: TritonServer) -> None:
    async with engine_on(triton) as engine:
        asked = request(engine, f"Many of one. {LONG_PROMPT}", HOT, 10)
        pieces, record = await generated(engine, *asked.copies(6))
        cached = [answer.cached_tokens for answer in record.answers]
        texts = ["".join(piece.text for piece in pieces if piece.index == index) for index in range(6)]
        assert (cached[0] or 0) < 16 and cached[1:] == [len(asked.prompt_tokens) - 1] * 5
        assert len(set(texts)) == 6
        assert texts == [await text_of(engine, one) for one in asked.copies(6)]
        assert texts[0] == await text_of(engine, asked)


async def test_leaving_several_choices_frees_all_their_slots(triton: TritonServer) -> None:
    async with engine_on(triton) as engine:
        copies = request(engine, "The king", HOT, 500).copies(8)
        with closing(engine.generate(copies, GenerationRecord())) as generation:
            assert await generation.take()
            assert engine.running == 8
        assert engine.running == 0 and engine.idle


async def test_text_neither_ends_nor_stops_before_min_tokens(triton: TritonServer) -> None:
    async with engine_on(triton, DEMO) as engine:
        ends = dict.fromkeys(engine.model.end_tokens, 100.0)
        wants_to_end = replace(request(engine, "The king", tokens=40), sampling=SamplingParameters(0.0, logit_bias=ends))
        pieces = await pieces_of(engine, replace(wants_to_end, min_tokens=12))
        assert (sum(piece.tokens for piece in pieces), pieces[-1].finish_reason) == (13, "stop")  # 12 and the end token
        assert sum(piece.tokens for piece in await pieces_of(engine, wants_to_end)) == 1
        stops = replace(request(engine, "1, 2, 3, 4,", tokens=40), stop=(",",))
        assert "," in await text_of(engine, replace(stops, min_tokens=8))
        assert "," not in await text_of(engine, stops)


async def test_end_tokens_are_ignored_where_that_is_asked(triton: TritonServer) -> None:
    async with engine_on(triton, DEMO) as engine:
        ends = dict.fromkeys(engine.model.end_tokens, 100.0)
        asked = request(engine, "The king", SamplingParameters(0.0, logit_bias=ends), 20, ignore_eos=True)
        pieces = await pieces_of(engine, asked)
    assert (sum(piece.tokens for piece in pieces), pieces[-1].finish_reason) == (20, "length")


async def test_token_outside_of_the_vocabulary_is_refused_by_its_field(triton: TritonServer) -> None:
    async with engine_on(triton) as engine:
        size = engine.model.vocabulary_size
        with pytest.raises(InvalidRequest, match=f"prompt names token {size}") as refused:
            await text_of(engine, replace(request(engine, "a"), prompt_tokens=[1, size]))
        assert refused.value.param == "prompt"
        with pytest.raises(InvalidRequest, match=f"0 to {size - 1}") as refused:
            await text_of(engine, request(engine, "a", SamplingParameters(logit_bias={-1: 1.0})))
        assert refused.value.param == "logit_bias"


@pytest.mark.parametrize("max_tokens", [8, 20, 60])
async def test_json_is_whole_however_hot_the_sampling_and_however_few_the_tokens(triton: TritonServer, max_tokens: int) -> None:
    async with engine_on(triton, DEMO) as engine:
        grammar = engine.model.compile_grammar(Grammar("json_object"))
        asked = request(engine, "As JSON:", SamplingParameters(2.0, 0), max_tokens, grammar=grammar)
        for one in asked.copies(8):
            pieces = await pieces_of(engine, one)
            assert isinstance(json.loads("".join(piece.text for piece in pieces)), dict)
            assert pieces[-1].finish_reason == "stop"


async def test_stop_string_within_a_text_that_must_have_a_form_does_not_cut_it(triton: TritonServer) -> None:
    async with engine_on(triton, DEMO) as engine:
        grammar = engine.model.compile_grammar(Grammar("json_object"))
        for stop in ("\n", "}"):
            pieces = await pieces_of(engine, request(engine, "As JSON:", HOT, 20, grammar=grammar, stop=(stop,)))
            assert isinstance(json.loads("".join(piece.text for piece in pieces)), dict)
            assert pieces[-1].finish_reason == "stop"


async def test_grammar_and_free_text_run_in_the_same_step_without_touching_each_other(triton: TritonServer) -> None:
    async with engine_on(triton, DEMO) as engine:
        grammar = engine.model.compile_grammar(Grammar("regex", "[a-z]{3,9}( [a-z]{3,9}){2}"))
        requests = [
            request(engine, "The king"),
            request(engine, "The king", HOT, grammar=grammar),
            request(engine, "Two", SHAPED),
        ]
        alone = [await text_of(engine, one) for one in requests]
        pieces = await pieces_of(engine, *requests)
    assert ["".join(piece.text for piece in pieces if piece.index == index) for index in range(3)] == alone
