"""The clients: many that want their whole answers, and some that leave."""

import asyncio
import json
import random
import time
from contextlib import aclosing, suppress
from urllib.parse import urlsplit

from chaos.clients import KEY, Broken, Client, Refused
from chaos.faulty_gateway import VICTIM
from chaos.oracle import Tally
from chaos.questions import PROMPTS, ROUTES, SAMPLINGS, Question
from chaos.recovery import Recoveries

PATIENCE = 90.0  # seconds for which a client that is refused asks again
LONGEST_PAUSE = 0.5  # seconds before it does
STREAMING = 0.7  # of the requests
HURT = "The server met an error it did not expect"


class Load:
    """Clients of several gateways: one that is refused goes on with another."""

    def __init__(
        self, urls: list[str], asked: list[Question], tally: Tally, recoveries: Recoveries, seed: int, key: str = KEY
    ) -> None:
        self._clients = [Client(url, key) for url in urls]
        self._asked = asked
        self._tally, self._recoveries, self._seed = tally, recoveries, seed
        self._over = False

    async def run(self, streams: int) -> None:
        """Asks without pause, with so many requests at a time, until `end`; then finishes what was asked."""
        await asyncio.gather(*(self._ask_on(number) for number in range(streams)))
        await asyncio.gather(*(client.close() for client in self._clients))

    def end(self) -> None:
        self._over = True

    async def leave(self, phase: str, luck: float) -> None:
        """One more client, which leaves in this phase of its request (schedule.LEAVINGS)."""
        chance = random.Random(luck)
        question = chance.choice(self._asked)
        if phase == "while it sends":
            await _leave_while_sending(chance.choice(self._clients).url, question)
            self._tally.left += 1
            return
        stream = phase != "without a stream"
        pieces = {"after the first piece": 1, "in the middle": chance.randint(2, 40)}.get(phase)
        seconds = None if pieces else chance.uniform(0, 0.02 if stream else 1.0)
        await self._answered(question, stream, chance, pieces, seconds)

    async def be_hurt(self, luck: float) -> None:
        """One more client, whose sequence meets a fault wherever it is taken: returns once it got that error."""
        chance = random.Random(luck)
        rules = chance.choice(SAMPLINGS) | {"seed": VICTIM}
        question = Question("a victim", chance.choice(ROUTES), chance.choice(PROMPTS), 60, rules)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                async with aclosing(
                    chance.choice(self._clients).pieces(question, stream=chance.random() < STREAMING)
                ) as pieces:
                    async for _ in pieces:
                        pass
            except Broken as broken:
                if HURT in str(broken):
                    return
            except Refused as refused:
                await asyncio.sleep(min(refused.retry_after, LONGEST_PAUSE))
        self._tally.note_lost(question, "no fault was met")

    async def _ask_on(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        while not self._over:
            await self._answered(chance.choice(self._asked), chance.random() < STREAMING, chance)

    async def _answered(
        self, question: Question, stream: bool, chance: random.Random, pieces: int | None = None, seconds: float | None = None
    ) -> None:
        """Asks until a gateway takes the question. Leaves after ``pieces`` of the answer or ``seconds``, where given."""
        self._tally.requests += 1
        start = time.monotonic()
        clients = chance.sample(self._clients, len(self._clients))
        attempt = 0
        while True:
            try:
                await self._ask(clients[attempt % len(clients)], question, stream, pieces, seconds)
                return
            except Refused as refused:
                self._tally.refusals[refused.kind] += 1
                if time.monotonic() - start > PATIENCE:
                    self._tally.note_lost(question, f"refused for {PATIENCE:.0f} s: {refused.kind}")
                    return
                await asyncio.sleep(min(refused.retry_after, LONGEST_PAUSE))
                attempt += 1
            except Broken as broken:
                self._tally.note_lost(question, str(broken))
                return

    async def _ask(self, client: Client, question: Question, stream: bool, most: int | None, seconds: float | None) -> None:
        """Raises Refused or Broken."""
        texts = [""] * question.options.get("n", 1)
        arrivals = self._recoveries.stream()
        left = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), aclosing(client.pieces(question, stream=stream)) as pieces:
                count = 0
                async for index, text in pieces:
                    if stream:
                        arrivals.append(time.monotonic())
                    texts[index] += text
                    count += 1
                    if count == most:
                        break
                else:
                    left = False
        if left:
            self._tally.note_left(question, tuple(texts))
        else:
            self._tally.note_answer(question, tuple(texts))


async def _leave_while_sending(url: str, question: Question) -> None:
    """Half a body, then the end of the connection. Where the gateway does not listen there is nothing to leave."""
    body = json.dumps(question.body).encode()
    path = {"generate": "/generate", "chat": "/v1/chat/completions", "completions": "/v1/completions"}[question.route]
    address = urlsplit(url)
    head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
    with suppress(OSError):
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[: len(body) // 2])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
