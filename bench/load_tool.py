"""A public load tool, GuideLLM, against our server and llama.cpp's: do its figures agree with those of our own driver?

Both drive the same running server, in turn, with as many clients, prompts of as many tokens and as many tokens an answer. The
tool runs offline, with the model's own tokenizer, in its own environment.
"""

import asyncio
import json
import os
import random
import statistics
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import driver, servers
from bench.compare_engines import sample_tokens
from bench.compare_servers import start
from bench.environments import BESIDE, GUIDELLM, RUN, TRANSFORMERS, PeerError
from bench.lineup import huggingface, our_model
from bench.report import Report, Table
from bench.servers import KEY, Server
from gateway.text.tokenizer import Tokenizer

CLIENTS = 4  # the tool takes much of the machine itself: more of them compare its own cost
PROMPT_TOKENS, TOKENS = 64, 48


@dataclass(frozen=True)
class Figures:
    tokens_per_second: float
    first: float  # seconds, median
    between: float  # seconds, mean


def compare(report: Report) -> None:
    seconds, rounds = (10.0, 1) if report.quick else (15.0, 2)
    rows = []
    with ExitStack() as stack:
        ours = stack.enter_context(servers.gateways(our_model("int8"), {}))[0]
        peers = [] if report.quick else start(report, stack, ("llama.cpp", servers.llama_cpp()))
        for server in [ours, *peers]:
            pairs = []
            for _ in range(rounds):
                with report.round("load tool"):
                    pairs.append((_own(server, seconds), guidellm(server, seconds)))
            for place, name in enumerate(("our driver", "GuideLLM")):
                told = [pair[place] for pair in pairs]
                rows.append((server.name, name, *_cells(told)))
    note = (
        f"{CLIENTS} clients, prompts of {PROMPT_TOKENS} tokens, {TOKENS} tokens an answer, streamed. Median time to a first "
        "token, mean time between tokens."
    )
    header = ("server", "told by", "tokens/s", "first token, ms", "between tokens, ms")
    report.tables.append(Table("A public load tool beside our driver", header, tuple(rows), note))


def _cells(told: list[Figures]) -> tuple[str, ...]:
    first, between = (1000 * statistics.median(getattr(one, field) for one in told) for field in ("first", "between"))
    return f"{statistics.median(one.tokens_per_second for one in told):.0f}", f"{first:.0f}", f"{between:.1f}"


def _own(server: Server, seconds: float) -> Figures:
    tokens = sample_tokens()
    words = Tokenizer((huggingface() / "tokenizer.json").read_text(), None)

    def prompt() -> str:
        """Digits are tokens of their own, and begin a text that nothing of is cached."""
        place = random.randrange(len(tokens) - PROMPT_TOKENS)
        return f"{random.randrange(10**8, 10**9)}{words.decode(tokens[place : place + PROMPT_TOKENS - 9])}"

    load = asyncio.run(driver.closed_loop(server, CLIENTS, prompt, TOKENS, warm_up=2, seconds=seconds))
    if load.failures:
        raise PeerError(load.failures[0])
    return Figures(load.tokens_per_second, statistics.median(load.first), statistics.mean(load.between))


def guidellm(server: Server, seconds: float) -> Figures:
    target = RUN / "guidellm.json"
    target.unlink(missing_ok=True)
    # Its own stream_options hold vLLM's continuous_usage_stats, which our gateway refuses by name; without it counts by itself.
    extras = {"body": dict(server.extra) | {"temperature": 0, "stream_options": None}}
    backend = {"kind": "openai_http", "target": server.address, "model": str(server.extra.get("model", "served"))}
    backend |= {"request_format": "/v1/completions", "api_key": KEY, "validate_backend": "false"}
    data = {"kind": "synthetic_text", "prompt_tokens": PROMPT_TOKENS, "output_tokens": TOKENS}
    options: dict[str, Any] = {
        "--backend": json.dumps(backend | {"extras": extras}),
        "--profile": json.dumps({"kind": "concurrent", "streams": [CLIENTS]}),
        "--constraint": json.dumps({"kind": "max_duration", "seconds": seconds}),
        "--tokenizer": json.dumps({"kind": "huggingface_auto", "model": str(huggingface())}),
        "--data": json.dumps(data),
        "--output": json.dumps({"kind": "json", "path": str(target)}),
    }
    # It wants torch for nothing but to load its prompts: the one of transformers' environment will do.
    command = [str(GUIDELLM.python), "-c", BESIDE, str(TRANSFORMERS.packages), "guidellm", "run", "--disable-console"]
    command += [word for option in options.items() for word in option]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "GUIDELLM__MAX_WORKER_PROCESSES": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    if not target.exists():
        raise PeerError(f"GuideLLM wrote nothing: {done.stderr.strip()[-400:]}")
    return read(target)


def read(path: Path) -> Figures:
    """What it wrote; PeerError where a request failed."""
    (told,) = json.loads(path.read_text())["benchmarks"]
    metrics, errored = told["metrics"], told["requests"]["errored"]
    if errored:
        raise PeerError(f"GuideLLM: {errored[0]['info']['error']}")
    first = metrics["time_to_first_token_ms"]["successful"]["median"] / 1000
    between = metrics["inter_token_latency_ms"]["successful"]["mean"] / 1000
    return Figures(metrics["output_tokens_per_second"]["total"]["mean"], first, between)
