"""The backend's Prometheus metrics, served at Triton's own /metrics beside its `nv_…`. docs/monitoring.md explains each.

In Triton's Python backend, every metric update is a message to the server that takes 15 to 30 µs. So counts are kept as plain
numbers, and changes are reported once a second.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from .kv_pool import KvPool

PREFIX = "tidegate_backend_"
INTERVAL = 1.0  # seconds
# Keys of the counts and their descriptions. A key with a second part is a labelled metric: ("refusals", "no_slot").
COUNTERS = {
    "steps": "Steps with rows; those that several gateways sent at the same moment are one.",
    "step_rows": "Rows of steps: each is one text's part of it.",
    "step_tokens": "Tokens that steps have computed.",
    "step_seconds": "Time that steps took, reading and answering them included.",
    "run_seconds": "Time of them in ONNX Runtime.",
    "prefix_cache_queries": "Tokens of prompts that were looked for in the cache.",
    "prefix_cache_hits": "Those of them that were found there.",
}
LABELLED = {
    "evictions": (
        "Cached texts that made room for another: of ended ones, or of stale ones that still run.",
        "kind",
        ("ended", "stale"),
    ),
    "refusals": (
        "Rows, or a gateway's whole part of a step, that were not computed.",
        "reason",
        ("no_slot", "unknown_sequence", "bad_step", "other_model"),
    ),
}
GAUGES = {"kv_slots": "Sequences that the cache can hold.", "kv_slots_used": "Those that running texts hold."}
DEVICE_INFO = "Always 1; the label names what computes: cuda or cpu."


class Metrics:
    """``family``: pb_utils.MetricFamily. ``counts`` holds the counts of the pool, the stepper and the backend."""

    def __init__(
        self,
        family: Any,
        labels: dict[str, str],
        counts: defaultdict[Any, float],
        pool: KvPool,
        device: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counts, self._pool, self._clock = counts, pool, clock
        self._family, self._labels = family, labels
        self._families: list[Any] = []  # Triton drops a family's metrics when it is garbage-collected
        self._counters = dict(self._make_counters())
        self._slots_used, slots = (self._gauge(name, GAUGES[name]) for name in ("kv_slots_used", "kv_slots"))
        slots.set(len(pool.lengths))
        self._make("device_info", DEVICE_INFO, family.GAUGE).Metric(labels=labels | {"device": device}).set(1)
        self._told: defaultdict[Any, float] = defaultdict(float)
        self._told_used = 0
        self._last = -INTERVAL  # time of the last report

    def publish(self) -> None:
        """Reports changes at most once a second; called after every step. Reports immediately when the first sequence starts or
        the last one ends, because the next step may be far off and the gauge would be wrong until then."""
        now, used = self._clock(), self._pool.used
        if bool(used) == bool(self._told_used) and now - self._last < INTERVAL:
            return
        self._last = now
        if used != self._told_used:
            self._slots_used.set(used)
            self._told_used = used
        for key, value in self._counts.items():
            if grown := value - self._told[key]:
                self._counters[key].increment(grown)
                self._told[key] = value

    def _make_counters(self) -> Iterator[tuple[Any, Any]]:
        """Yields every counter with its key in the counts. All exist from the start so that the first increase is visible."""
        for name, text in COUNTERS.items():
            yield name, self._make(f"{name}_total", text, self._family.COUNTER).Metric(labels=self._labels)
        for name, (text, label, values) in LABELLED.items():
            family = self._make(f"{name}_total", text, self._family.COUNTER)
            for value in values:
                yield (name, value), family.Metric(labels=self._labels | {label: value})

    def _gauge(self, name: str, text: str) -> Any:
        return self._make(name, text, self._family.GAUGE).Metric(labels=self._labels)

    def _make(self, name: str, text: str, kind: Any) -> Any:
        self._families.append(self._family(name=PREFIX + name, description=text, kind=kind))
        return self._families[-1]
