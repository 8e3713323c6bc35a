"""What drafts gain: the same requests through HTTP and Triton with SPECULATION on and off, in turn, in one run.

    python -m bench.speculation model_repository/smollm2-135m-instruct-q4_1 [--quick]

One Triton, two gateways before it that differ in that setting alone and never work at the same time. Three kinds of text:
copies (what stands in the prompt comes again: repeated, edited, as JSON or CSV), ordinary chat, and whatever the model writes
behind random words. Each greedy and sampled with a seed, so that both gateways write the same texts. One stream asks one prompt
after the other, more streams ask all at once. Every request is made with drafts and without right after each other; a ratio is
the median of such pairs, and a first pair, which also computes the prompts, does not count.
"""

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families as families

from bench.servers import KEY, gateways
from bench.speculation_prompts import CHAT, COPIES, RANDOM_WORDS

PROMPTS = {"copies": COPIES, "chat": CHAT, "random words": RANDOM_WORDS}
TEMPERATURES = (0.0, 0.7)
SEED = 7


@dataclass
class Side:
    """One of the gateways, and what was measured on it."""

    address: str
    tokens: int = 0
    seconds: float = 0.0
    rates: list[float] = field(default_factory=list)  # tokens a second, of each round
    texts: list[list[str]] = field(default_factory=list)

    async def measure(self, prompts: list[str], temperature: float, most: int) -> None:
        """All prompts at the same time."""
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=600) as client:
            start = time.perf_counter()
            answers = await asyncio.gather(
                *(self._ask(client, prompt, temperature, most, SEED + number) for number, prompt in enumerate(prompts))
            )
            seconds = time.perf_counter() - start
        tokens = sum(count for count, _ in answers)
        self.tokens, self.seconds = self.tokens + tokens, self.seconds + seconds
        self.rates.append(tokens / seconds)
        self.texts.append([text for _, text in answers])

    async def _ask(self, client: httpx.AsyncClient, prompt: str, temperature: float, most: int, seed: int) -> tuple[int, str]:
        body = {
            "model": "latest_checkpoint.pt",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": most,
            "temperature": temperature,
            "seed": seed,
        }
        answer = await client.post(f"{self.address}/v1/chat/completions", json=body, headers={"X-API-Key": KEY})
        body = answer.raise_for_status().json()
        return int(body["usage"]["completion_tokens"]), str(body["choices"][0]["message"]["content"])

    def drafted(self) -> tuple[float, float]:
        """Tokens drafted and accepted since the gateway's start."""
        samples = [one for family in families(httpx.get(f"{self.address}/metrics").text) for one in family.samples]
        totals = {one.name.removeprefix("tidegate_spec_decode_num_"): one.value for one in samples if "spec_decode" in one.name}
        return totals.get("draft_tokens_total", 0.0), totals.get("accepted_tokens_total", 0.0)


async def compare(on: str, off: str, kind: str, temperature: float, streams: int, rounds: int, most: int) -> str:
    """One line of the table."""
    prompts = PROMPTS[kind]
    # One stream: each prompt is a round of its own. More: each takes the next prompt.
    asked = [[prompt] for prompt in prompts] if streams == 1 else [[prompts[n % len(prompts)] for n in range(streams)]]
    with_drafts, without = Side(on), Side(off)
    for group in asked:  # what is measured then finds its prompts cached
        for side in (Side(on), Side(off)):
            await side.measure(group, temperature, most)
    drafted, accepted = with_drafts.drafted()
    for number in range(rounds):
        for group in asked:
            for side in (with_drafts, without) if number % 2 else (without, with_drafts):
                await side.measure(group, temperature, most)
    same = with_drafts.texts == without.texts
    drafted, accepted = (now - before for now, before in zip(with_drafts.drafted(), (drafted, accepted), strict=True))
    ratio = statistics.median(one / other for one, other in zip(with_drafts.rates, without.rates, strict=True))
    cells = [
        kind, f"{temperature:g}", streams, f"{without.tokens / without.seconds:.0f}",
        f"{with_drafts.tokens / with_drafts.seconds:.0f}", f"{ratio:.2f}",
        f"{100 * accepted / with_drafts.tokens:.0f} %", f"{100 * accepted / max(drafted, 1):.0f} %", "yes" if same else "NO",
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model directory that `make export` wrote")
    parser.add_argument("--quick", action="store_true", help="one round, short texts, up to 8 streams")
    parser.add_argument("--streams", type=int, nargs="+")
    parser.add_argument("--tokens", type=int, help="generated tokens a stream, at most")
    parser.add_argument("--rounds", type=int)
    arguments = parser.parse_args()
    streams = arguments.streams or ([1, 8] if arguments.quick else [1, 8, 32])
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    tokens = arguments.tokens or (48 if arguments.quick else 128)
    print("| text | temperature | streams | off, tokens/s | on, tokens/s | ratio | accepted of all | of drafts | same texts |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with gateways(arguments.model.resolve(), {"SPECULATION": "on"}, {"SPECULATION": "off"}) as (on, off):
        for count in streams:
            for kind in PROMPTS:
                for temperature in TEMPERATURES:
                    print(asyncio.run(compare(on.address, off.address, kind, temperature, count, rounds, tokens)), flush=True)


if __name__ == "__main__":
    main()
