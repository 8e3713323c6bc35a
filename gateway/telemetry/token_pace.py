"""Counts tokens and the time between them: every token counts, but tokens that arrive together cost a single update.

The library's Histogram takes one observation at a time, behind a lock. This is a custom collector, as the library documents.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class ModelPace:
    """The token pace of one model."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # tokens per bucket; the last is above all bounds
        self.seconds = 0.0
        self.tokens = 0

    def note(self, tokens: int, seconds: float) -> None:
        """``seconds``: between each token and the previous one."""
        self.tokens += tokens
        self.counts[bisect_left(self._bounds, seconds)] += tokens
        self.seconds += tokens * seconds

    def note_first(self, tokens: int) -> None:
        """An answer's first tokens: the first has no predecessor, and the others arrived together with it."""
        self.tokens += tokens
        self.counts[0] += tokens - 1


class TokenPace(Collector):
    def __init__(self, bounds: tuple[float, ...]) -> None:
        """``bounds``: upper bounds of the histogram's buckets, in seconds."""
        self._bounds = bounds
        self._of: dict[str, ModelPace] = {}

    def of(self, model: str) -> ModelPace:
        if model not in self._of:
            self._of[model] = ModelPace(self._bounds)
        return self._of[model]

    def collect(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily("tidegate_generation_tokens", "Tokens generated.", labels=["model"])
        between = HistogramMetricFamily(
            "tidegate_time_per_output_token_seconds", "Between two tokens of an answer.", labels=["model"]
        )
        for model, pace in self._of.items():
            tokens.add_metric([model], pace.tokens)
            bounds = [*map(str, self._bounds), "+Inf"]
            between.add_metric([model], list(zip(bounds, accumulate(pace.counts), strict=True)), pace.seconds)
        yield from (between, tokens)
