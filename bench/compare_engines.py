"""Engines side by side, without HTTP: each is asked in turn, round after round."""

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence

from tokenizers import Tokenizer

from bench.engine import Engine, Setting, started
from bench.environments import ROOT, PeerError
from bench.lineup import RECOMPUTE, SETTINGS, huggingface
from bench.report import Aim, Report, Table, ratio

STREAMS = (1, 8, 32)
TOKENS = {1: 48, 8: 24, 32: 12}  # generated a stream, in a quick run half of them: more streams, fewer steps
PROMPT, LONG_PROMPT = 32, 512  # tokens
JUDGED, JUDGED_TOKENS = 32, 48  # texts, and tokens of each, that say how near an engine is to fp32
OURS, REFERENCE = "Tidegate int8", "Tidegate fp32"
AS_GOOD = 0.7  # of our likeness to fp32: 32 texts cannot tell less apart
DECODE_AIM, PREFILL_AIM = (1.2, 1.6, 1.6), 1.0


def sample_tokens() -> list[int]:
    """English prose of the exporter's comparison."""
    text = (ROOT / "export" / "verify_text.txt").read_text()
    return list(Tokenizer.from_file(str(huggingface() / "tokenizer.json")).encode(text).ids)


def cut(tokens: Sequence[int], count: int, length: int) -> list[list[int]]:
    """So many different pieces of a text."""
    stride = (len(tokens) - length) // count
    return [list(tokens[place * stride : place * stride + length]) for place in range(count)]


def likeness(text: Sequence[int], reference: Sequence[int]) -> float:
    """The share of a text that comes before the first token which fp32 would not have written."""
    equal = next((n for n, (one, other) in enumerate(zip(text, reference, strict=True)) if one != other), len(text))
    return equal / len(text)


def compare(report: Report, settings: Sequence[Setting] = SETTINGS) -> None:
    with started(settings, report.failures, report.say) as engines:
        report.given |= {engine.name: engine.given for engine in engines}
        tokens = sample_tokens()
        _judge(report, engines, cut(tokens, JUDGED, PROMPT))
        prompts, long_prompt = cut(tokens, max(STREAMS), PROMPT), tokens[:LONG_PROMPT]
        rounds = 1 if report.quick else 3
        for number in range(rounds):
            report.say(f"  round {number + 1} of {rounds}")
            for streams in STREAMS:
                with report.round("engines"):
                    for engine in [*engines]:
                        _drop_broken(report, engines, engine, functools.partial(_decode, report, prompts[:streams]))
            with report.round("engines"):
                for engine in [*engines]:
                    _drop_broken(report, engines, engine, functools.partial(_prefill, report, long_prompt))
    tables(report)


def _drop_broken(report: Report, engines: list[Engine], engine: Engine, do: Callable[[Engine], None]) -> None:
    try:
        do(engine)
    except PeerError as error:
        report.failures[engine.name] = str(error)
        report.say(f"  {engine.name} is left out from here on: {error}")
        engines.remove(engine)
        engine.close()
        for figures in (report.decode, report.prefill, report.likeness):
            figures.pop(engine.name, None)


def _judge(report: Report, engines: list[Engine], prompts: list[list[int]]) -> None:
    """Also everyone's warm-up."""
    texts: dict[str, list[list[int]]] = {}

    def ask(engine: Engine) -> None:
        if engine.name != RECOMPUTE:  # the same arithmetic as with a cache, and minutes of it
            texts[engine.name] = engine.ask("texts", prompts=prompts, tokens=_judged_tokens(report))["texts"]

    for engine in [*engines]:
        _drop_broken(report, engines, engine, ask)
    for name, written in texts.items():
        if REFERENCE in texts:
            pairs = zip(written, texts[REFERENCE], strict=True)
            report.likeness[name] = statistics.mean(likeness(text, reference) for text, reference in pairs)


def _judged_tokens(report: Report) -> int:
    return JUDGED_TOKENS // 2 if report.quick else JUDGED_TOKENS


def _decode(report: Report, prompts: list[list[int]], engine: Engine) -> None:
    streams = len(prompts)
    if engine.name == RECOMPUTE and streams > 1:
        return
    tokens = 6 if engine.name == RECOMPUTE else TOKENS[streams] // (2 if report.quick else 1)
    seconds = engine.ask("decode", prompts=prompts, tokens=tokens)["seconds"]
    report.decode.setdefault(engine.name, {}).setdefault(streams, []).append(streams * (tokens - 1) / seconds)


def _prefill(report: Report, prompt: list[int], engine: Engine) -> None:
    if engine.name != RECOMPUTE:
        report.prefill.setdefault(engine.name, []).append(len(prompt) / engine.ask("prefill", prompt=prompt)["seconds"])


def tables(report: Report) -> None:
    rows = [
        (
            name,
            *(
                f"{statistics.median(report.decode[name][streams]):.0f}" if streams in report.decode[name] else ""
                for streams in STREAMS
            ),
            f"{statistics.median(report.prefill[name]):.0f}" if name in report.prefill else "",
            f"{report.likeness[name]:.2f}" if name in report.likeness else "",
        )
        for name in report.decode
    ]
    length = _judged_tokens(report)
    note = (
        f"Tokens a second, all streams together, medians of {len(report.foreign['engines']) // (len(STREAMS) + 1)} rounds. "
        f"Prompts of {PROMPT} tokens of English prose, greedy, from each stream's first token to its last. *Like fp32*: the "
        f"mean share of {length} greedy tokens before the first that fp32 would not have written; {JUDGED} texts."
    )
    header = (
        "engine",
        *(f"{streams} stream{'s' * (streams > 1)}" for streams in STREAMS),
        f"prefill of {LONG_PROMPT}",
        "like fp32",
    )
    report.tables.append(Table("Engines", header, tuple(rows), note))
    as_good = _as_good(report)
    peers = [name for name in as_good if not name.startswith("Tidegate")]
    if peers and OURS in report.decode:
        _aims(report, [name for name in as_good if name not in peers], peers)


def _as_good(report: Report) -> list[str]:
    """As near to fp32 as our default."""
    least = AS_GOOD * report.likeness.get(OURS, 0.0)
    return [name for name in report.decode if name != RECOMPUTE and report.likeness.get(name, 0.0) >= least]


def _aims(report: Report, ours: list[str], peers: list[str]) -> None:
    """Everyone's best setting of this quality, for each number of streams."""
    reached, best = [], []
    for streams in STREAMS:
        rates = {name: by_streams[streams] for name, by_streams in report.decode.items() if name in (*ours, *peers)}
        own, name = _fastest(rates, ours), _fastest(rates, peers)
        reached.append(ratio(rates[own], rates[name]))
        best.append(f"{own.removeprefix('Tidegate ')} : {name}")
    what = "tokens a second against the best peer of equal or better quality, 1 / 8 / 32 streams"
    remark = f"engines; best of ours : best of theirs: {', '.join(best)}"
    report.aims.append(Aim(what, DECODE_AIM, tuple(reached), remark=remark))
    own, name = _fastest(report.prefill, ours), _fastest(report.prefill, peers)
    remark = f"{own.removeprefix('Tidegate ')} : {name}"
    reached_prefill = ratio(report.prefill[own], report.prefill[name])
    report.aims.append(Aim("prefill against the best peer", (PREFILL_AIM,), (reached_prefill,), remark=remark))


def _fastest(rates: Mapping[str, list[float]], names: list[str]) -> str:
    return max(names, key=lambda name: statistics.median(rates[name]))
