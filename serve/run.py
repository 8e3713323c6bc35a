"""`tidegate serve`: from a checkpoint to an address that answers, until Ctrl-C."""

import signal
from types import FrameType
from typing import NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Somebody pressed Ctrl-C or sent a signal that asks for the end."""


def stop(number: int, frame: FrameType | None) -> NoReturn:
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, signal.SIG_IGN)  # impatience must not leave anything behind
    raise Stopped


def run() -> None:
    try:
        for stop_signal in STOP_SIGNALS:
            signal.signal(stop_signal, stop)
        from serve.start import start  # here, because it takes a while, in which Ctrl-C must be quiet too

        start()
    except Stopped:
        say_stopped()


def say_stopped() -> None:
    print("\nTidegate has stopped.", flush=True)
