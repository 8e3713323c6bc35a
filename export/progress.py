"""Reports progress on stderr: bars on a terminal, a few plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

Advance = Callable[[int, int], None]  # (done, total)
BAR = "{desc} {percentage:3.0f}% |{bar:30}| {elapsed}"
LINE_INTERVAL = 15.0  # seconds between lines without a terminal


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    if not sys.stderr.isatty():
        say(title)
        yield _lines()
        return
    with tqdm(desc=title, total=1, bar_format=BAR, file=sys.stderr) as bar, _clock(bar):

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


def _lines() -> Advance:
    began = said = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= LINE_INTERVAL and done < total:
            said = now
            say(f"  {100 * done // total} % after {now - began:.0f} s")

    return advance


@contextmanager
def _clock(bar: "tqdm[None]") -> Iterator[None]:
    """Refreshes the bar every second, even during a longer step."""
    ended = threading.Event()

    def refresh() -> None:
        while not ended.wait(1):
            bar.refresh()

    thread = threading.Thread(target=refresh, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
