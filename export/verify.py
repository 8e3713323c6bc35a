"""Compares an exported graph with its checkpoint, using the decoder that serves it, before the model is installed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from backends.onnx_decoder.decoder import Candidates, Decoder, Row
from export.checkpoint import Checkpoint
from export.text.token_check import known_text

WINDOWS = (256, 192, 128, 96)  # tokens per window of text: of different lengths, like the rows of a served batch
CHUNK = 64  # tokens per prefill chunk, whose logits are in memory together with the reference's
DECODED, VERIFIED = 8, 4  # single-token decode steps from the cache, then one verification row of several tokens
TAIL = DECODED + VERIFIED


class VerificationFailed(Exception):
    """The graph does not compute what the checkpoint does. The message names the metric and its bound."""


class OutOfBounds(VerificationFailed):
    """The graph is close to the checkpoint, but not close enough."""


@dataclass(frozen=True)
class Bounds:
    """The error allowed for a precision.

    ``noise`` is relative: rms of the logits' error over rms of the logits, each about its row's mean.
    """

    noise: float
    kl: float  # nats per token, from the checkpoint's distribution to the graph's
    top1: float  # share of positions with the same most probable token
    largest: float = np.inf  # absolute difference of any logit


# fp32 and fp16: rounding from a different order of summation, with about a factor of ten to spare. Quantized: about three times
# what SmolLM2-135M shows (docs/export.md); small and random models do better. A wrong weight, position or mask shows as a noise
# near 1. int4 is wide because 4 bits cost a lot for a model that was not trained or published with them.
BOUNDS = {
    "fp32": Bounds(noise=1e-4, kl=1e-5, top1=0.99, largest=1e-3),
    "fp16": Bounds(noise=0.01, kl=0.001, top1=0.97),
    "int8": Bounds(noise=0.1, kl=0.02, top1=0.88),
    "int8-row": Bounds(noise=0.25, kl=0.12, top1=0.75),
    "int4": Bounds(noise=0.5, kl=0.8, top1=0.5),
}


@dataclass
class Comparison:
    """Accumulates metrics over positions: logits [n, vocabulary] against a reference of the same shape."""

    positions: int = 0
    largest: float = 0.0
    agreed: int = 0
    divergence: float = 0.0
    error: float = 0.0
    power: float = 0.0

    def add(self, reference: np.ndarray, logits: np.ndarray) -> None:
        for expected, got in zip(reference, logits, strict=True):  # row by row: temporaries for many rows would take 100 MB
            self._add_row(expected.astype(np.float64), got.astype(np.float64))

    def _add_row(self, expected: np.ndarray, got: np.ndarray) -> None:
        error = got - expected
        self.positions += 1
        self.largest = float(np.maximum(self.largest, np.abs(error).max()))  # keeps NaN
        self.agreed += int(expected.argmax() == got.argmax())
        self.divergence += _kl(expected, got)
        self.error += float(error.var())
        self.power += float(expected.var())

    @property
    def noise(self) -> float:
        return float(np.sqrt(self.error / max(self.power, 1e-30)))

    @property
    def kl(self) -> float:
        return self.divergence / self.positions

    @property
    def top1(self) -> float:
        return self.agreed / self.positions


@dataclass(frozen=True)
class Report:
    against_checkpoint: Comparison
    against_prefill: Comparison  # batched cached decode and verification rows against the same positions in prefill

    def figures(self) -> dict[str, float]:
        return {
            "tokens": self.against_checkpoint.positions,
            "kl": self.against_checkpoint.kl,
            "top1": self.against_checkpoint.top1,
            "noise": self.against_checkpoint.noise,
            "largest_difference": self.against_checkpoint.largest,
            "cached_noise": self.against_prefill.noise,
        }

    def summary(self, bounds: Bounds) -> str:
        """For metrics that passed `check`: top-1, or the KL divergence that excused a low top-1."""
        measured = self.against_checkpoint
        if measured.top1 >= bounds.top1:
            return f"top-1 {100 * measured.top1:.1f} %, bound {100 * bounds.top1:.0f} %"
        return f"KL divergence {measured.kl:.2g} nats per token, bound {bounds.kl:.2g}"

    def check(self, bounds: Bounds) -> None:
        """Raises OutOfBounds if a metric is out of bounds."""
        measured = self.against_checkpoint
        # If the distributions are this close, the most probable token differs only between near-ties, as in a barely trained
        # model.
        differing = 0.0 if measured.kl <= bounds.kl / 10 else 1 - measured.top1
        limits = [
            ("the largest difference of a logit", measured.largest, bounds.largest),
            ("the logits' noise", measured.noise, bounds.noise),
            ("the mean KL divergence", measured.kl, bounds.kl),
            ("the share of most probable tokens that differ", differing, 1 - bounds.top1),
            # Rounding activations to 8 bits amplifies a last-bit difference to the precision's own noise, hence the same bound.
            ("the noise of cached decode against prefill", self.against_prefill.noise, bounds.noise),
        ]
        for what, value, bound in limits:
            if not value <= bound:  # so that NaN fails too
                raise OutOfBounds(f"{what} is {value:.3g}, at most {bound:.3g} is allowed")


def verify(model_path: Path, checkpoint: Checkpoint, context_length: int, progress: Callable[[int, int], None]) -> Report:
    """Runs the model over real text. Raises VerificationFailed if the graph contradicts itself."""
    windows = text_windows(checkpoint, context_length)
    decoder = Decoder(model_path, slots=len(windows), context_length=max(map(len, windows)))
    report = Report(Comparison(), Comparison())
    done, total = 0, 2 * sum(map(len, windows)) + 1
    tails = []  # the prefill's logits for the last positions of each window, which are decoded again from the cache
    for slot, tokens in enumerate(windows):
        reference = checkpoint.reference(tokens)
        progress(done := done + len(tokens), total)
        tails.append(_verify_prefill(decoder, slot, tokens, reference, report.against_checkpoint))
        progress(done := done + len(tokens), total)
    _verify_cache(decoder, windows, tails, report.against_prefill)
    progress(total, total)
    return report


def text_windows(checkpoint: Checkpoint, context_length: int) -> list[np.ndarray]:
    """Windows of text as int32 tokens, without characters the tokenizer does not know. Short text is repeated."""
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.tokenizer_json)

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    tokens = encode(known_text(encode))
    lengths = [min(length, context_length) for length in WINDOWS]
    ends = np.cumsum(lengths)
    return np.split(np.resize(np.array(tokens, np.int32), ends[-1]), ends[:-1])


def _verify_prefill(
    decoder: Decoder, slot: int, tokens: np.ndarray, reference: np.ndarray, comparison: Comparison
) -> np.ndarray:
    """Prefills one window in chunks. Returns the logits of its last positions."""
    tail = np.empty((0, reference.shape[1]), np.float32)
    for start in range(0, len(tokens), CHUNK):
        chunk = tokens[start : start + CHUNK]
        candidates = decoder.run([Row(slot, start, chunk, len(chunk), full_logits=True)])[0]
        comparison.add(reference[start : start + CHUNK], _full(candidates))
        tail = np.concatenate([tail, _full(candidates)])[-TAIL:]
        _check_candidates(candidates)
    return tail


def _verify_cache(decoder: Decoder, windows: list[np.ndarray], tails: list[np.ndarray], comparison: Comparison) -> None:
    """Rolls back all windows, then decodes their last tokens one at a time, and the very last ones as verification rows."""
    done = 0
    for count in [1] * DECODED + [VERIFIED]:
        rows = []
        for slot, tokens in enumerate(windows):
            past = len(tokens) - TAIL + done
            rows.append(Row(slot, past, tokens[past : past + count], count, full_logits=True))
        for tail, candidates in zip(tails, decoder.run(rows), strict=True):
            comparison.add(tail[done : done + count], _full(candidates))
            _check_candidates(candidates)
        done += count


def _full(candidates: Candidates) -> np.ndarray:
    assert candidates.logits is not None  # requested for every row here
    return candidates.logits


def _check_candidates(candidates: Candidates) -> None:
    """Checks that the candidates and the normalizer match the logits."""
    logits = _full(candidates)
    if not np.isfinite(logits).all():
        raise VerificationFailed("the logits hold NaN or infinity: the checkpoint's weights are too large for fp32")
    k = candidates.candidate_id.shape[1]
    largest = -np.sort(np.partition(-logits, k - 1, axis=-1)[:, :k], axis=-1)
    picked = np.take_along_axis(logits, candidates.candidate_id.astype(np.int64), axis=-1)
    if not (np.array_equal(candidates.candidate_logit, largest) and np.array_equal(picked, largest)):
        raise VerificationFailed("the candidates are not the largest logits in descending order")
    if not np.allclose(candidates.log_normalizer, _log_sum_exp(logits)[:, 0], atol=1e-4):
        raise VerificationFailed("log_normalizer is not the logarithm of the sum of the logits' exponentials")


def _kl(expected: np.ndarray, got: np.ndarray) -> float:
    """KL(expected || got) of two rows of logits, in nats."""
    log_p, log_q = expected - _log_sum_exp(expected), got - _log_sum_exp(got)
    return float(np.exp(log_p) @ (log_p - log_q))


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    largest = logits.max(axis=-1, keepdims=True)
    return largest + np.log(np.exp(logits - largest).sum(axis=-1, keepdims=True))
