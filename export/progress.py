"""Says on stderr what is being done: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable

BAR_CELLS = 30


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def bar(title: str) -> Callable[[int, int], None]:
    """Returns ``advance(done, total)``, which redraws the bar; where there is no terminal it writes one line at the end."""
    began = time.monotonic()

    def advance(done: int, total: int) -> None:
        seconds = time.monotonic() - began
        if sys.stderr.isatty():
            cells = BAR_CELLS * done // total
            end = "\n" if done == total else ""
            print(f"\r{title} [{'#' * cells:<{BAR_CELLS}}] {seconds:.0f} s", end=end, file=sys.stderr, flush=True)
        elif done == total:
            say(f"{title}: {seconds:.1f} s")

    return advance
