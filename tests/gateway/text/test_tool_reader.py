"""Calls are found in an answer however it is cut, and whatever is no call stays text to the last character."""

import pytest

from gateway.text.tool_calls import BARE, HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, CallForm
from gateway.text.tool_reader import CallArguments, CallBegun, CallTrigger, Piece, ToolReader, read_all

NAMES = ("get", "get_weather")
DEEP = '{"a": {"b": ["}]", "\\\\", "\\"}"]}, "c": "\\\\\\"{"}'
ANSWERS: list[tuple[CallForm, str, str, list[tuple[str, str]]]] = [
    (HERMES, 'Let me see.\n<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>', "Let me see.", [("get", "{}")]),
    (
        HERMES,
        f'<tool_call>{{"name":"get_weather","arguments":{DEEP}}}</tool_call>\n'
        '<tool_call> { "name" : "get", "arguments": {} }\n</tool_call>\n',
        "",
        [("get_weather", DEEP), ("get", "{}")],
    ),
    (HERMES, '<tool_call>\n{"name": "get", "arguments": {"a": 1', "", [("get", '{"a": 1')]),
    (
        MISTRAL,
        f'[TOOL_CALLS][{{"name": "get", "arguments": {DEEP}}}, {{"name": "get_weather", "arguments": {{}}}}]',
        "",
        [("get", DEEP), ("get_weather", "{}")],
    ),
    (
        MISTRAL_ARGS,
        f"Well [TOOL_CALLS]get[ARGS]{DEEP}[TOOL_CALLS]get_weather[ARGS]{{}}",
        "Well",
        [("get", DEEP), ("get_weather", "{}")],
    ),
    (LLAMA, '{"name": "get_weather", "parameters": {"city": "Köln"}}', "", [("get_weather", '{"city": "Köln"}')]),
    (LLAMA, '<|python_tag|>{"name": "get", "parameters": {}}', "", [("get", "{}")]),
    (BARE, '\n {\n "name": "get",\n "arguments": {}}\n', "", [("get", "{}")]),
]
NO_CALLS: list[tuple[CallForm, str]] = [
    (HERMES, "a < b, <tool> and <tool_cal"),
    (HERMES, 'So: <tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call> done'),
    (HERMES, "<tool_call>\nget(1)\n</tool_call>"),
    (HERMES, '<tool_call>{"name": "get", "arguments": [1]}</tool_call>'),
    (HERMES, '<tool_call><tool_call>{"name": "got'),
    (HERMES, "Hi  \n\n there \n"),
    (MISTRAL, '[TOOL_CALLS] {"name": "get"}'),
    (LLAMA, '{"name": "Ada", "parameters": {}}'),
    (LLAMA, 'Yes: {"name": "get", "parameters": {}}'),
    (LLAMA, '{"name": "get_wea'),
    (BARE, '{"name": "get", "age": 3}'),
    (BARE, "  \n"),
]


def pieces_of(form: CallForm, parts: list[str]) -> tuple[ToolReader, list[Piece]]:
    reader = ToolReader(form, NAMES)
    return reader, [piece for part in parts for piece in reader.feed(part)] + reader.finish()


def joined(pieces: list[Piece]) -> tuple[str, list[tuple[str, str]]]:
    text, calls = "", list[list[str]]()
    for piece in pieces:
        if isinstance(piece, CallBegun):
            assert piece.index == len(calls) and piece.id
            calls.append([piece.name, ""])
        elif isinstance(piece, CallArguments):
            assert piece.index == len(calls) - 1  # the name comes first, and calls one after another
            calls[-1][1] += piece.text
        else:
            text += piece
    return text, [(name, arguments) for name, arguments in calls]


def cuts(text: str) -> list[list[str]]:
    """In two at every position, and character by character."""
    return [[text[:cut], text[cut:]] for cut in range(len(text) + 1)] + [list(text)]


@pytest.mark.parametrize(("form", "answer", "text", "calls"), ANSWERS)
def test_an_answer_has_the_same_text_and_calls_however_it_is_cut(
    form: CallForm, answer: str, text: str, calls: list[tuple[str, str]]
) -> None:
    for parts in cuts(answer):
        reader, pieces = pieces_of(form, parts)
        assert joined(pieces) == (text, calls), parts
        assert reader.whole == calls[-1][1].endswith("}")
    shown, whole = read_all(ToolReader(form, NAMES), answer)
    assert (shown, [(call.name, call.arguments) for call in whole]) == (text, calls)


@pytest.mark.parametrize(("form", "answer"), NO_CALLS)
def test_what_is_no_call_of_a_known_function_is_text_to_the_last_character(form: CallForm, answer: str) -> None:
    for parts in cuts(answer):
        reader, pieces = pieces_of(form, parts)
        assert joined(pieces) == (answer, []) and not reader.whole, parts


def test_arguments_are_passed_on_as_they_come_and_text_is_held_back_only_where_it_may_become_a_tag() -> None:
    reader = ToolReader(HERMES, NAMES)
    parts = ["Hi", " <", "b <tool_", "call>", '{"name": "get", "arguments": {', '"a']
    came = [joined(reader.feed(part)) if part != '"a' else reader.feed(part) for part in parts]
    assert came == [("Hi", []), ("", []), (" <b", []), ("", []), ("", [("get", "{")]), [CallArguments(0, '"a')]]


@pytest.mark.parametrize(("form", "answer", "text", "calls"), ANSWERS)
def test_the_constraint_begins_with_the_piece_that_completes_the_tag(
    form: CallForm, answer: str, text: str, calls: list[tuple[str, str]]
) -> None:
    """Where there is no tag, with the name of a known function. What it gets begins with the calls."""
    opened = form.tag if form.tag in answer and form.tag else f'"{calls[0][0]}"'
    end = answer.index(opened) + len(opened)
    for cut in range(len(answer) + 1):
        trigger = CallTrigger(form, NAMES)
        begun = [trigger.begun_with(part.encode()) for part in (answer[:cut], answer[cut:])]
        first = begun[0] if cut >= end else begun[1]
        assert first is not None and (cut >= end or begun[0] is None)
        expected = (answer[:cut] if cut >= end else answer)[len(text) :]
        assert "".join(first.decode().split()) == "".join(expected.split())


def test_no_constraint_begins_in_text() -> None:
    for form, answer in NO_CALLS:
        if form.tag and form.tag in answer:
            continue  # a tag may begin one: what follows is then held to the form
        if form.bare and '"get"' in answer and answer.startswith("{"):
            continue
        trigger = CallTrigger(form, NAMES)
        assert all(trigger.begun_with(byte.to_bytes()) is None for byte in answer.encode()), answer
