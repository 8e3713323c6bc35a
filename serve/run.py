"""`tidegate serve`: from a checkpoint to a running endpoint, until Ctrl-C."""

import signal
from types import FrameType
from typing import NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Ctrl-C was pressed, or a signal asked us to stop."""


def stop(number: int, frame: FrameType | None) -> NoReturn:
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the cleanup
    raise Stopped


def run() -> None:
    try:
        for stop_signal in STOP_SIGNALS:
            signal.signal(stop_signal, stop)
        from serve.start import start  # imported here because it takes a while, and Ctrl-C must be quiet during it

        start()
    except Stopped:
        say_stopped()


def say_stopped() -> None:
    print("\nTidegate has stopped.", flush=True)
