"""Calls that the model begins by itself: run-ahead goes on until then, and the text is the same in every company."""

import asyncio
from dataclasses import replace

import pytest

from gateway.engine.generation import SamplingParameters
from gateway.text.deferred_matcher import DeferredMatcher
from gateway.text.grammar import Grammar
from gateway.text.tool_calls import HERMES, Tool, ToolUse
from gateway.text.tool_grammar import grammar_text
from gateway.text.tool_reader import ToolReader, read_all
from testing.triton import Triton
from tests.conftest import DEMO
from tests.gateway.engines import engine_on, request, text_of

SAMPLING = SamplingParameters(temperature=0.7)
PROMPT = "Once upon a time there was a"
USE = ToolUse((Tool("go", "", {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),), ("go",))


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.usefixtures("one_event_loop")
async def test_a_text_runs_ahead_up_to_its_call_and_is_the_same_in_every_company(triton: Triton) -> None:
    """The tag is what the model writes without tools, so that it comes in the middle of a run."""
    texts = []
    for run_ahead in (0, 200):
        async with engine_on(triton, DEMO, run_ahead=run_ahead) as engine:
            plain = request(engine, PROMPT, SAMPLING, 60)
            free = await text_of(engine, plain)
            words = free.split()
            tag = next(word for word in words[len(words) // 2 :] if word.isalpha() and len(word) > 3 and free.count(word) == 1)
            form = replace(HERMES, tag=tag, opening=tag)
            start = engine.model.compile_grammar(Grammar("tools", grammar_text(USE, form))).start
            asked = replace(plain, grammar=DeferredMatcher(start, form, ("go",)), max_tokens=90)
            alone = await text_of(engine, asked)
            assert alone.startswith(free[: free.index(tag)])
            shown, calls = read_all(reader := ToolReader(form, ("go",)), alone)
            assert [call.name for call in calls][:1] == ["go"] and reader.whole and shown
            crowd = await asyncio.gather(text_of(engine, asked), *(text_of(engine, replace(plain, seed=n)) for n in range(4)))
            assert crowd[0] == alone
            texts.append(alone)
    assert texts[0] == texts[1]
