"""Tokens a second through HTTP and Triton, beside the plain ONNX Runtime loop of the same model, in turn, in one run.

    python -m bench.http_throughput model_repository/smollm2-135m-instruct-q4_1

Both sides get the same prompts, decode greedily for the same number of tokens on all cores, and pay for their own prefill. The
loop is the backend's decoder alone: no Triton, no HTTP, no sampling but argmax; so the gateway drafts nothing either. Rounds
alternate, so that the machine's noise hits both.
"""

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np

from backends.onnx_decoder.decoder import Decoder, Row
from gateway.tokenizer import Tokenizer
from serve.triton_server import TritonServer, free_port

KEY = "benchmark"
PROMPT = "{} Write a long story about this number, with many chapters, and never stop."


@contextmanager
def gateways(model: Path, *settings: Mapping[str, str]) -> Iterator[list[str]]:
    """A real Triton with one model, and before it a real gateway with each of the ``settings``; yields their addresses."""
    with ExitStack() as stack:
        run_dir = stack.enter_context(tempfile.TemporaryDirectory())
        triton = stack.enter_context(TritonServer(model.parent, Path(run_dir), [model.name]))
        triton.wait_ready(120)
        yield [stack.enter_context(_gateway(triton.grpc_address, one)) for one in settings]


@contextmanager
def _gateway(triton: str, settings: Mapping[str, str]) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "gateway.app:create_app", "--no-access-log", f"--port={port}"]
    env = os.environ | {"TRITON_URL": triton, "MY_API_KEY": KEY} | dict(settings)
    process = subprocess.Popen([*command, "--log-level=warning"], env=env)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_healthy(address)
        yield address
    finally:
        process.terminate()
        process.wait()


def wait_healthy(address: str) -> None:
    for _ in range(200):
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("the gateway did not become healthy")


async def through_http(address: str, conversations: list[list[dict[str, str]]], tokens: int) -> float:
    """Tokens a second of one client a conversation, all of them asking at the same time."""

    async def ask(client: httpx.AsyncClient, messages: list[dict[str, str]]) -> int:
        body = {"model": "latest_checkpoint.pt", "messages": messages, "max_tokens": tokens, "temperature": 0}
        answer = await client.post(f"{address}/v1/chat/completions", json=body, headers={"X-API-Key": KEY}, timeout=600)
        return int(answer.raise_for_status().json()["usage"]["completion_tokens"])

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None)) as client:
        start = time.perf_counter()
        counts = await asyncio.gather(*(ask(client, messages) for messages in conversations))
        return sum(counts) / (time.perf_counter() - start)


def plain_loop(decoder: Decoder, prompts: list[np.ndarray], tokens: int) -> float:
    """Tokens a second of the decoder alone: prefill of every prompt, then greedy decode of all rows in step."""
    start = time.perf_counter()
    lengths = [len(prompt) for prompt in prompts]
    found = decoder.run([Row(slot, 0, prompt) for slot, prompt in enumerate(prompts)])
    for _ in range(tokens - 1):
        rows = [Row(slot, lengths[slot], candidates.candidate_id[0, :1]) for slot, candidates in enumerate(found)]
        found = decoder.run(rows)
        lengths = [length + 1 for length in lengths]
    return len(prompts) * tokens / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model directory that `make export` wrote")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=128, help="generated tokens a stream")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    version = max(arguments.model.glob("[1-9]*"), key=lambda directory: int(directory.name))
    template = version / "chat_template.jinja"
    tokenizer = Tokenizer((version / "tokenizer.json").read_text(), template.read_text() if template.exists() else None)
    decoder = Decoder(version / "model.onnx", slots=max(arguments.streams), context_length=512)

    with gateways(arguments.model.resolve(), {"SPECULATION": "off"}) as (address,):
        print("| streams | plain loop, tokens/s | HTTP and Triton, tokens/s | ratio |\n| --- | --- | --- | --- |")
        for streams in arguments.streams:
            pairs = []
            for _ in range(arguments.rounds):
                conversations = [
                    [
                        {"role": "system", "content": str(random.random())},
                        {"role": "user", "content": PROMPT.format(random.randrange(10**9))},
                    ]
                    for _ in range(streams)
                ]
                prompts = [np.array(tokenizer.apply_chat_template(messages), np.int32) for messages in conversations]
                loop = plain_loop(decoder, prompts, arguments.tokens)
                pairs.append((loop, asyncio.run(through_http(address, conversations, arguments.tokens))))
            loop, http = (statistics.median(values) for values in zip(*pairs, strict=True))
            ratio = statistics.median(http / loop for loop, http in pairs)
            print(f"| {streams} | {loop:.0f} | {http:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
