"""How long after a fault every stream goes on."""

from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable


class Recoveries:
    """The times at which the pieces of every stream have come, and what follows from them."""

    def __init__(self) -> None:
        self._streams: list[array[float]] = []

    def stream(self) -> "array[float]":
        """For the arrivals of one stream, in seconds."""
        self._streams.append(array("d"))
        return self._streams[-1]

    def times(self, faults: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
        """Seconds, by kind of fault: from the fault to the moment at which the last of the streams that it met had its next
        piece. So it is the slowest of them that counts. A fault that met no stream has none."""
        times = defaultdict(list)
        for kind, at in faults:
            waits = [arrivals[bisect_right(arrivals, at)] - at for arrivals in self._streams if _meets(arrivals, at)]
            if waits:
                times[kind].append(max(waits))
        return times


def _meets(arrivals: "array[float]", at: float) -> bool:
    """Whether the stream had begun by then, and went on."""
    return len(arrivals) > 1 and arrivals[0] <= at < arrivals[-1]
