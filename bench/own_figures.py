"""What only we have: the cache of prompts, prompts beside texts, the context's cost, drafts; and the loop that we replace."""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx

from bench import driver, servers, speculation
from bench.compare_engines import sample_tokens
from bench.compare_servers import prompt, start
from bench.driver import ask, together
from bench.engine import Engine, started
from bench.environments import THREADS
from bench.lineup import SETTINGS, huggingface, newest_version, our_model
from bench.machine import read_bandwidth
from bench.report import Aim, Report, Table, ratio
from bench.servers import Server
from gateway.text.tokenizer import Tokenizer
from testing.figures import percentile

PASTS = (64, 256, 512, 1024, 1900)  # tokens


def tokenizer() -> Tokenizer:
    return Tokenizer((huggingface() / "tokenizer.json").read_text(), None)


def measure(report: Report) -> None:
    with ExitStack() as stack:
        (engine,) = stack.enter_context(started(SETTINGS[:1], report.failures, report.say))
        (on,) = stack.enter_context(servers.gateways(our_model("int8"), {}))
        asyncio.run(together(on, [prompt()], 4))  # the first request of a gateway reads the tokenizer
        flask_loop(report, on)
        floor(report, engine)
        with report.round("second turn"):
            asyncio.run(second_turn(report, on))
        asyncio.run(arriving_prompts(report, on))
        context(report, engine)
    drafts(report)


def flask_loop(report: Report, ours: Server) -> None:
    """256 new tokens behind 32: the loop's cost of a token grows with the length, so it is asked where half of them stand."""
    report.say("  against the Flask loop")
    tokens, found, rows, half = 64 if report.quick else 256, [], [], sample_tokens()[: 32 + 128]
    words = tokenizer().decode(half)
    with ExitStack() as stack:
        for flask in start(report, stack, ("Flask loop", servers.flask_loop())):
            asyncio.run(together(flask, [words], 1))
            for clients, some in ((1, 8), (32, 1)):
                with report.round("Flask loop"):
                    slow = _rate(flask, [f"{n} {words}" for n in range(clients)], some)
                    fast = _rate(ours, [prompt() for _ in range(clients)], tokens)
                found.append(fast / slow)
                rows.append((str(clients), f"{slow:.2f}", f"{fast:.0f}", f"{found[-1]:.0f}"))
    if found:
        what = "against the Flask loop that recomputes the sequence, 1 / 32 clients, 256 new tokens"
        remark = f"ours: {tokens} new tokens; the loop at its mean length"
        report.aims.append(Aim(what, (25, 100), tuple(found), remark=remark))
        header = ("clients", "Flask loop, tokens/s", "Tidegate, tokens/s", "ratio")
        report.tables.append(Table("Against the plain loop behind Flask", header, tuple(rows)))


def _rate(server: Server, prompts: list[str], tokens: int) -> float:
    start = time.perf_counter()
    asyncio.run(together(server, prompts, tokens))
    return len(prompts) * tokens / (time.perf_counter() - start)


def floor(report: Report, engine: Engine) -> None:
    """One stream cannot be faster than memory hands over the weights."""
    read = weight_bytes(newest_version(our_model("int8")) / "model.onnx")
    shares, bandwidth = [], 0.0
    for _ in range(3):
        with report.round("memory floor"):
            bandwidth = read_bandwidth(THREADS)
            answer = engine.ask("decode", prompts=[sample_tokens()[:32]], tokens=33)
        shares.append(32 / answer["seconds"] / (bandwidth / read))
    report.floor = bandwidth / read
    remark = f"{read / 1e6:.0f} MB of weights a token, read at {bandwidth / 1e9:.1f} GB/s: {report.floor:.0f} tokens/s at most"
    report.aims.append(
        Aim(
            "8-bit single stream against the memory floor",
            (0.75,),
            (statistics.median(shares),),
            remark=remark,
        )
    )


def weight_bytes(model: Path) -> int:
    """What a decode step reads: all weights, but of the embedding a row."""
    graph = onnx.load(model, load_external_data=False).graph
    gathered = {node.input[0] for node in graph.node if node.op_type.startswith("Gather")}
    used_else = {name for node in graph.node if not node.op_type.startswith("Gather") for name in node.input}
    types: dict[int, int] = {
        onnx.TensorProto.UINT8: 1,
        onnx.TensorProto.INT8: 1,
        onnx.TensorProto.FLOAT16: 2,
        onnx.TensorProto.FLOAT: 4,
    }
    sizes = {one.name: int(np.prod(one.dims)) * types.get(one.data_type, 8) for one in graph.initializer}
    return sum(size for name, size in sizes.items() if name in used_else or name not in gathered)


async def second_turn(report: Report, server: Server) -> None:
    """A chat's second turn behind 1,000 tokens: its beginning is cached, or, with another first word, is not."""
    report.say("  second turn of a chat")
    history, on, off = tokenizer().decode(sample_tokens()[:1000]), [], []
    for number in range(2 if report.quick else 6):
        known = f"{random.randrange(10**9)} {history}"
        await ask(server, known, 1)
        on.append((await ask(server, f"{known} And who said that?", 1)).first)
        off.append((await ask(server, f"{number + 10**9} {history} And who said that?", 1)).first)
    what = "time to first token of a second chat turn with 1,000 tokens of history, prefix cache on against off"
    remark = f"{1000 * statistics.median(on):.0f} ms against {1000 * statistics.median(off):.0f} ms"
    report.aims.append(Aim(what, (8,), (ratio(off, on),), remark=remark))


async def arriving_prompts(report: Report, server: Server) -> None:
    """Four texts go on while prompts of 512 tokens come one after the other; and, in turn, while nothing comes."""
    report.say("  tokens' distances while long prompts arrive")
    seconds, long_text = 4.0 if report.quick else 8.0, tokenizer().decode(sample_tokens()[:505])
    ratios, first, medians = [], [], []

    def long_prompt() -> str:
        return f"{random.randrange(10**9)} {long_text}"

    def load(clients: int, prompts: Callable[[], str], tokens: int) -> Awaitable[driver.Load]:
        return driver.closed_loop(server, clients, prompts, tokens, warm_up=1.5, seconds=seconds)

    for _ in range(1 if report.quick else 4):
        with report.round("arriving prompts"):
            alone = await load(4, prompt, 1500)
            beside, arrived = await asyncio.gather(load(4, prompt, 1500), load(1, long_prompt, 4))
        ratios.append(percentile(beside.between, 0.95) / percentile(alone.between, 0.95))
        medians.append((percentile(alone.between, 0.95), percentile(beside.between, 0.95)))
        first += arrived.first
    what = "p95 inter-token latency while 512-token prompts keep arriving, against without them"
    alone_p95, beside_p95 = (1000 * statistics.median(values) for values in zip(*medians, strict=True))
    remark = (
        f"{beside_p95:.0f} ms against {alone_p95:.0f} ms; first token of the arriving {1000 * percentile(first, 0.5):.0f} ms"
    )
    report.aims.append(Aim(what, (2.5,), (statistics.median(ratios),), at_most=True, remark=remark))


def context(report: Report, engine: Engine) -> None:
    report.say("  cost over the context's length")
    for streams in (8,) if report.quick else (8, 32):
        engine.ask("step", streams=streams, past=PASTS[0], repeats=2)  # the first ones prepare buffers
        for past in PASTS:
            with report.round("context"):
                seconds = engine.ask("step", streams=streams, past=past, repeats=5)["seconds"]
            report.context.setdefault(streams, {})[past] = statistics.median(seconds)
    header = ("streams", *(f"{past} tokens" for past in PASTS))
    rows = [(str(n), *(f"{1000 * one:.0f}" for one in by_past.values())) for n, by_past in report.context.items()]
    report.tables.append(Table("A decode step behind so many tokens, ms", header, tuple(rows), "Our decoder alone, int8."))


def drafts(report: Report) -> None:
    report.say("  drafts on and off, texts that copy their prompt")
    rounds, most = (1, 24) if report.quick else (2, 96)
    with (
        servers.gateways(our_model("int8"), {"SPECULATION": "on"}, {"SPECULATION": "off"}) as (on, off),
        report.round("drafts"),
    ):
        row = asyncio.run(speculation.compare(on.address, off.address, "copies", 0.0, 1, rounds, most))
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    remark = f"{cells[4]} against {cells[3]} tokens/s; same texts: {cells[8]}"
    report.aims.append(
        Aim(
            "copy-heavy prompts with speculation against without, 1 stream",
            (1.8,),
            (float(cells[5]),),
            remark=remark,
        )
    )
