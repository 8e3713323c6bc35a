"""Real clients: OpenAI's own for chat and completions, httpx for /generate. They try nothing again by themselves.

How a request can end:

- its answer is whole;
- `Refused`: the gateway did not take it, and said so, or was not there. To be asked again, here or elsewhere;
- `Broken`: it was taken and did not come to its end. That is what must never happen.
"""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import httpx2  # what OpenAI's client is built on
import openai

from chaos.questions import Question

KEY = "chaos"
TIMEOUT = 90.0  # seconds without a byte: more than every bound of the gateway
TAKEN_AFTER = 2.0  # seconds: a connection that ends later, or a refusal that comes later, is a request that was taken
REFUSALS = (429, 503)

Piece = tuple[int, str]  # which of the answers, and more of its text


class Refused(Exception):
    def __init__(self, kind: str, retry_after: float = 0.2) -> None:
        super().__init__(kind)
        self.kind = kind
        self.retry_after = retry_after  # seconds


class Broken(Exception):
    """The message says how."""


class Client:
    """Of one gateway. Close it."""

    def __init__(self, url: str, key: str = KEY) -> None:
        limits = httpx.Limits(max_connections=None)
        headers = {"X-API-Key": key}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT, limits=limits, trust_env=False)
        direct = openai.DefaultAsyncHttpxClient(limits=httpx2.Limits(max_connections=None), trust_env=False)
        self._sdk = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, http_client=direct, max_retries=0, timeout=TIMEOUT)
        self.url = url

    async def close(self) -> None:
        await self._http.aclose()
        await self._sdk.close()

    async def pieces(self, question: Question, *, stream: bool) -> AsyncGenerator[Piece, None]:
        """The texts as they come; without ``stream`` one piece each. Raises Refused or Broken."""
        begun, began = False, time.monotonic()
        source = self._generate(question, stream) if question.route == "generate" else self._openai(question, stream)
        try:
            async with _translated():
                async for piece in source:
                    begun = True
                    yield piece
        except Refused as refused:
            if begun or time.monotonic() - began > TAKEN_AFTER:
                raise Broken(f"{refused.kind} after {time.monotonic() - began:.1f} s") from refused
            raise
        finally:
            await source.aclose()

    async def _generate(self, question: Question, stream: bool) -> AsyncGenerator[Piece, None]:
        body = question.body
        async with self._http.stream("POST", "/generate", json=body | {"stream": stream}) as response:
            if response.status_code != 200:
                await response.aread()
                response.raise_for_status()
            if not stream:
                text = json.loads(await response.aread())["data"]["generated_text"]
                yield 0, text.removeprefix(question.prompt)
                return
            finished = False
            async for event in _events(response):
                if event == "[DONE]":
                    break
                if "error" in event:
                    raise Broken(f"event: {event['error']['message']}")
                finished = finished or "finish_reason" in event["data"]
                yield 0, event["data"]["text"]
            else:
                raise Broken("a stream without [DONE]")
            if not finished:
                raise Broken("a stream without a finish_reason")

    async def _openai(self, question: Question, stream: bool) -> AsyncGenerator[Piece, None]:
        chat = question.route == "chat"
        create: Any = self._sdk.chat.completions.create if chat else self._sdk.completions.create
        known = {"model", "messages", "prompt", "max_tokens", "temperature", "top_p", "seed", "n", "stop"}
        known.add("frequency_penalty")
        named = {name: value for name, value in question.body.items() if name in known}
        others = {name: value for name, value in question.body.items() if name not in known}
        answer = await create(**named, stream=stream, extra_body=others)
        if not stream:
            for choice in answer.choices:
                yield choice.index, choice.message.content if chat else choice.text
            return
        unfinished = set(range(question.options.get("n", 1)))
        async with answer:
            async for chunk in answer:
                for choice in chunk.choices:
                    if choice.finish_reason:
                        unfinished.discard(choice.index)
                    yield choice.index, (choice.delta.content or "") if chat else choice.text
        if unfinished:
            raise Broken("a stream without a finish_reason")


async def _events(response: httpx.Response) -> AsyncIterator[Any]:
    """Comments are left out."""
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Every error of a client library becomes Refused or Broken."""
    try:
        yield
    except (httpx.HTTPStatusError, openai.APIStatusError) as error:
        retry_after = error.response.headers.get("Retry-After")
        if error.response.status_code in REFUSALS and retry_after is not None:
            raise Refused(f"{error.response.status_code} {_message(error.response)}", float(retry_after)) from error
        raise Broken(f"{error.response.status_code} {_message(error.response)}") from error
    except (httpx.TimeoutException, httpx2.TimeoutException, openai.APITimeoutError) as error:
        raise Broken(f"no byte for {TIMEOUT:.0f} s") from error
    except (httpx.TransportError, httpx2.TransportError, openai.APIConnectionError) as error:
        cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
        raise Refused(type(cause).__name__) from error
    except openai.APIError as error:
        raise Broken(f"event: {error.message}") from error


def _message(response: httpx.Response | httpx2.Response) -> str:
    try:
        return str(response.json()["error"]["message"])[:120]
    except (ValueError, KeyError, TypeError):
        return response.text[:120]
