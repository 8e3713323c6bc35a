"""`python -m chaos.faulty_gateway`: `python -m gateway`, in which every sequence with the seed VICTIM meets a fault: when a
step is planned, when its answer is delivered, when a token is chosen, or when its reader is notified."""

from collections.abc import Callable
from typing import Any

from gateway import server
from gateway.engine.sequence import Sequence

VICTIM = 20_261_128  # a seed
PLACES = ("row", "note_cached", "allowed", "matched", "append", "notify")


class Panic(BaseException):
    """As a panic of a library in Rust comes out."""


def break_victims() -> None:
    for name in PLACES:
        setattr(Sequence, name, _faulty(name, getattr(Sequence, name)))


def _faulty(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def faulty(sequence: Sequence, *arguments: Any, **options: Any) -> Any:
        if sequence.request.seed == VICTIM and name == PLACES[sequence.id % len(PLACES)]:
            raise (Panic if sequence.id & 64 else RuntimeError)(f"a fault at {name}")
        return call(sequence, *arguments, **options)

    return faulty


if __name__ == "__main__":
    break_victims()
    server.run()
