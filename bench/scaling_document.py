"""The tables of docs/scaling.md, between their comments, from the costs in bench/capacity_measured.json.

python -m bench.scaling_document            # the costs and the formulas' figures, at once
python -m bench.scaling_document --run      # the simulation and the 2,000 streams too: some minutes
"""

import argparse
import re
import sys
from pathlib import Path

from bench.capacity import BUSY, GatewayCost, StepCost, Workload, measured, pace, plan, rows_within, table
from bench.capacity_simulation import CROWD, SHARES, report
from bench.streams import many_streams

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"
WORK = Workload(prompt=200, answer=150, think=30)
SLOTS, GATEWAYS = 32, 2
SLOWEST = 0.25  # seconds a token: people read 4 or 5 words a second


def filled(text: str, place: str, content: str) -> str:
    """``text`` with ``content`` between `<!-- place -->` and `<!-- end -->`. Raises ValueError where there is no such place."""
    pattern = rf"(<!-- {place} -->\n).*?(<!-- end -->)"
    made, places = re.subn(pattern, lambda found: f"{found[1]}{content}\n{found[2]}", text, flags=re.DOTALL)
    if places != 1:
        raise ValueError(f"the document has no place for {place}")
    return made


def costs(step: StepCost, gateway: GatewayCost, about: dict[str, object]) -> str:
    rows = {
        "a step, whatever takes part (*a*)": f"{step.fixed * 1000:.1f} ms",
        "a row of it (*b*)": f"{step.per_row * 1000:.2f} ms",
        "a hundred cached tokens of a row (100 · *c*)": f"{step.per_row_past * 100_000:.2f} ms",
        "a chunk of a prompt, and a token of it": f"{step.prefill_fixed * 1000:.1f} ms, {step.prefill_per_token * 1000:.2f} ms",
        "the gateway's core: a step (*per step*)": f"{gateway.per_step * 1000:.2f} ms",
        "a token, as an event of a stream (*per token*)": f"{gateway.per_token * 1000:.3f} ms",
        "a request (*per request*)": f"{gateway.per_request * 1000:.1f} ms",
    }
    told = ", ".join(f"{name}: {value}" for name, value in about.items())
    return "\n".join(
        [f"{told}.\n", "| cost of | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]
    )


def capacity(step: StepCost, gateway: GatewayCost) -> str:
    most = rows_within(step, gateway, WORK, SLOTS, SLOWEST, GATEWAYS)
    told = plan(step, gateway, WORK, max(1, most), GATEWAYS)
    tritons = BUSY * pace(step, gateway, WORK, max(1, most), GATEWAYS) / gateway.per_step
    return (
        f"`python -m bench.capacity`: {WORK.prompt:.0f} tokens of a prompt, {WORK.answer:.0f} of an answer, {WORK.think:.0f} s "
        f"of thinking, {GATEWAYS} gateways.\n\n{table(step, gateway, WORK, SLOTS, GATEWAYS)}\n\n"
        f"With a token every {SLOWEST * 1000:.0f} ms at the latest: **{most} streams, {told.people:.0f} people a Triton**. "
        f"The messages of {tritons:.0f} such Tritons fill a gateway's core to {BUSY:.0%} "
        "(0.7 · time between two tokens / *per step*)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling_document", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", action="store_true", help="the simulation and the streams too")
    parser.add_argument("--repository", type=Path, help="a model repository with a tiny-gpt2 (default: made here)")
    options = parser.parse_args()
    step, gateway, about = measured()
    text = filled(DOCUMENT.read_text(), "costs", costs(step, gateway, about))
    text = filled(text, "capacity", capacity(step, gateway))
    good = True
    if options.run:
        text = filled(text, "simulation", report(step, gateway, CROWD, SHARES))
        good, streams = many_streams(2000, 20, options.repository)
        text = filled(text, "streams", streams)
    DOCUMENT.write_text(text)
    sys.exit(0 if good else "not every stream ended in full")


if __name__ == "__main__":
    main()
