"""Knows every text beforehand, and judges every answer by it, byte for byte."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from chaos.clients import Broken, Client
from chaos.questions import Question

MOST_EXAMPLES = 20  # of what went wrong, in the report


async def whole(client: Client, question: Question, *, stream: bool) -> tuple[str, ...]:
    """The texts of all answers to a question. Raises Refused or Broken."""
    texts = [""] * question.options.get("n", 1)
    async for index, text in client.pieces(question, stream=stream):
        texts[index] += text
    return tuple(texts)


async def expected_texts(client: Client, asked: list[Question]) -> dict[str, tuple[str, ...]]:
    """By the question's name, from a stack without faults. Raises Broken where that stack itself gives different ones: alone
    and streamed, and all at once and not streamed."""
    alone = {question.name: await whole(client, question, stream=True) for question in asked}
    together = await asyncio.gather(*(whole(client, question, stream=False) for question in asked))
    for question, texts in zip(asked, together, strict=True):
        if texts != alone[question.name]:
            raise Broken(f"{question.name!r} has two answers without any fault: {alone[question.name]} and {texts}")
    return alone


@dataclass
class Tally:
    """What became of the requests."""

    expected: dict[str, tuple[str, ...]]
    requests: int = 0  # that were to be answered, however often they were refused before
    answered: int = 0  # whole
    left: int = 0  # by the harness, on purpose
    texts_compared: int = 0
    bytes_compared: int = 0
    wrong: int = 0
    lost: int = 0
    refusals: Counter[str] = field(default_factory=Counter)  # by what was said; each was asked again
    errors: Counter[str] = field(default_factory=Counter)  # of the lost ones
    examples: list[str] = field(default_factory=list)

    def note_answer(self, question: Question, texts: tuple[str, ...]) -> None:
        self.answered += 1
        self._compare(question, texts, whole=True)

    def note_left(self, question: Question, texts: tuple[str, ...]) -> None:
        """What a client has got before it left must be the beginning of what it would have got."""
        self.left += 1
        self._compare(question, texts, whole=False)

    def note_lost(self, question: Question, why: str) -> None:
        self.lost += 1
        self.errors[why] += 1
        self._example(f"lost: {question.name}: {why}")

    def _compare(self, question: Question, texts: tuple[str, ...], whole: bool) -> None:
        for text, expected in zip(texts, self.expected[question.name], strict=True):
            self.texts_compared += 1
            self.bytes_compared += len(text.encode())
            if text != (expected if whole else expected[: len(text)]):
                self.wrong += 1
                self._example(f"wrong: {question.name}: {text!r}, not {expected!r}")

    def _example(self, text: str) -> None:
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(text)
