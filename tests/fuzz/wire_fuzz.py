"""Steps at random for the real backend: wire, pool, stepper and ONNX Runtime over a tiny model.

Whatever arrives, only BadStep comes out, and a good sequence between the bad ones gets the tokens that it gets alone.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backends.onnx_decoder.decoder import Candidates, Decoder, Row
from backends.onnx_decoder.kv_pool import KvPool
from backends.onnx_decoder.step import NO_SLOT, UNKNOWN, Stepper, StepResult, StepRow
from backends.onnx_decoder.wire import INPUTS, ROW_INPUTS, BadStep, Limits, Step, pack, parse

SLOTS, CONTEXT = 4, 64
STRANGERS = range(1, 7)  # sequence ids of the random steps: more than there are slots
EDGES = [0, 1, -1, 2, 7, 8, 9, 63, 64, 65, 2**15, 2**31 - 1, -(2**31), 2**32, 2**63 - 1, -(2**63)]
DTYPES = [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint32, np.uint64, np.bool_, np.float16, np.float32, np.float64]
GOOD_LENGTH = 10  # tokens that the good sequence generates before it is compared

Arrays = dict[str, np.ndarray]


@dataclass
class Figures:
    cases: int = 0
    refused: int = 0
    rows: int = 0  # of the steps that were run
    compared: int = 0  # good sequences
    said: set[str] = field(default_factory=set)  # fields that refusals named


class Backend:
    """What `model.py` does with requests, without Triton."""

    def __init__(self, model: Path) -> None:
        self.decoder = Decoder(model, slots=SLOTS, context_length=CONTEXT, threads=1)
        self.limits = Limits(CONTEXT, self.decoder.vocabulary_size)
        self.forget()

    def forget(self) -> None:
        self.begun: set[int] = set()  # sequences that may have a slot
        self.stepper = Stepper(KvPool(SLOTS, CONTEXT, self.decoder.copy_prefix), self.decoder, Row)

    def run(self, requests: Sequence[Arrays]) -> tuple[list[Step], list[StepResult], list[BadStep]]:
        steps, refusals = [], []
        for arrays in requests:
            try:
                steps.append(parse(arrays, self.limits, StepRow))
            except BadStep as exc:
                refusals.append(exc)
        rows = [row for step in steps for row in step.rows]
        self.begun |= {row.sequence_id for row in rows}
        results = self.stepper.step(rows, [sequence for step in steps for sequence in step.release])
        pack(results, self.decoder.candidate_count, self.decoder.vocabulary_size)
        return steps, results, refusals


class GoodSequence:
    """Greedy decoding as a gateway does it: sends again what is not cached, makes room where there is none."""

    def __init__(self, backend: Backend, sequence_id: int, prompt: Sequence[int], limit: int) -> None:
        self.backend, self.sequence_id, self.tokens, self.limit = backend, sequence_id, list(prompt), limit
        self.prompt, self.cached = len(prompt), 0

    @property
    def generated(self) -> list[int]:
        return self.tokens[self.prompt :]

    def advance(self) -> None:
        """One more token, through as many steps as that takes."""
        for _ in range(4 + len(self.tokens)):
            tokens = np.array([self.tokens[self.cached :]], np.int32)
            _, (result,), refusals = self.backend.run(
                [_request([(self.sequence_id, self.cached, tokens[0], self.limit, 1, False)])]
            )
            assert not refusals, refusals
            if result.cached_length == UNKNOWN:
                self.cached = 0
            elif result.cached_length == NO_SLOT:
                self.backend.run([{"release": np.array([list(self.backend.begun)], np.uint64)}])
            else:
                self.cached = result.cached_length
                if result.candidates is not None:
                    self.tokens.append(_best(result.candidates))
                    return
        raise AssertionError("a good sequence does not come on")


def fuzz(model: Path, cases: int, seed: int, progress: Callable[[Figures], None] = lambda figures: None) -> Figures:
    """AssertionError or whatever the backend raised, with the number of the case."""
    random_ = random.Random(seed)
    backend, fresh = Backend(model), Backend(model)
    figures = Figures()
    good = _good(backend, random_, 1000)
    for case in range(cases):
        requests = [_mutated(_valid(random_, backend), random_) for _ in range(random_.choice((1, 1, 1, 2, 3)))]
        try:
            steps, results, refusals = backend.run(requests)
            _check([row for step in steps for row in step.rows], results)
            good.advance()
        except Exception as exc:
            exc.add_note(f"case {case} of seed {seed}: {requests}")
            raise
        figures.cases += 1
        figures.refused += bool(refusals)
        figures.rows += len(results)
        figures.said |= {str(refusal).partition(":")[0] for refusal in refusals}
        if len(good.generated) == GOOD_LENGTH:
            _compare(good, fresh, f"case {case} of seed {seed}")
            figures.compared += 1
            backend.run([{"release": np.array([[good.sequence_id]], np.uint64)}])
            good = _good(backend, random_, good.sequence_id + 1)
        progress(figures)
    return figures


def _good(backend: Backend, random_: random.Random, sequence_id: int) -> GoodSequence:
    prompt = [random_.randrange(backend.limits.vocabulary_size) for _ in range(random_.randint(1, CONTEXT - GOOD_LENGTH))]
    if random_.random() < 0.5:  # a prefix that others are likely to share
        prompt = [3] * len(prompt)
    return GoodSequence(backend, sequence_id, prompt, random_.choice((1, 5, 16, 64)))


def _compare(good: GoodSequence, fresh: Backend, where: str) -> None:
    """With the same prompt over an empty pool, whole."""
    fresh.forget()
    alone = GoodSequence(fresh, 1, good.tokens[: good.prompt], CONTEXT)
    for _ in range(GOOD_LENGTH):
        alone.advance()
    assert alone.generated == good.generated, f"{where}: {good.generated} instead of {alone.generated}"


def _check(rows: Sequence[StepRow], results: Sequence[StepResult]) -> None:
    assert len(rows) == len(results)
    for row, result in zip(rows, results, strict=True):
        assert result.cached_length in (UNKNOWN, NO_SLOT) or 1 <= result.cached_length <= row.past_length + len(row.tokens)
        if result.candidates is not None:
            assert len(result.candidates.candidate_id) == row.logit_count
            assert np.isfinite(result.candidates.candidate_logit).all()


def _best(candidates: Candidates) -> int:
    return int(candidates.candidate_id[-1, 0])


def _request(rows: Sequence[tuple[int, int, np.ndarray, int, int, bool]]) -> Arrays:
    columns = list(zip(*((row[0], row[1], len(row[2]), row[3], row[4], row[5]) for row in rows), strict=True)) or [()] * 6
    arrays = {name: np.array([column], dtype) for (name, dtype), column in zip(ROW_INPUTS.items(), columns, strict=True)}
    tokens = np.concatenate([row[2] for row in rows]) if rows else np.zeros(0, np.int32)
    return arrays | {"tokens": tokens[None].astype(np.int32)}


def _valid(random_: random.Random, backend: Backend) -> Arrays:
    rows = []
    for sequence in random_.sample(STRANGERS, random_.randint(0, 4)):
        past = random_.choice((0, 0, random_.randrange(CONTEXT)))
        count = random_.randint(1, random_.choice((1, 4, CONTEXT - past)) if past < CONTEXT - 4 else 1)
        tokens = np.array(
            [random_.choice((3, random_.randrange(backend.limits.vocabulary_size))) for _ in range(count)], np.int32
        )
        limit = random_.randint(1, CONTEXT)
        rows.append((sequence, past, tokens, limit, random_.randint(0, min(count, limit)), random_.random() < 0.2))
    arrays = _request(rows)
    if random_.random() < 0.4:
        arrays["release"] = np.array([random_.sample(STRANGERS, random_.randint(0, 3))], np.uint64)
    return arrays


def _mutated(arrays: Arrays, random_: random.Random) -> Arrays:
    """With up to three changes; often with none."""
    for _ in range(random_.choice((0, 0, 1, 1, 2, 3))):
        name = random_.choice([*INPUTS, "tokens", "token_count"])
        random_.choice((_set_value, _set_dtype, _set_shape, _resize, _drop, _anything))(arrays, name, random_)
    return arrays


def _set_value(arrays: Arrays, name: str, random_: random.Random) -> None:
    array = arrays.get(name)
    if array is not None and array.size:
        array = array.copy()
        # modulo: an edge of a wider type is some edge of this one
        value = np.array([random_.choice([*EDGES, *EDGES, random_.getrandbits(63)])], np.int64)
        array.reshape(-1)[random_.randrange(array.size)] = value.astype(array.dtype)[0]
        arrays[name] = array


def _set_dtype(arrays: Arrays, name: str, random_: random.Random) -> None:
    if name in arrays:
        with np.errstate(all="ignore"):
            arrays[name] = arrays[name].astype(random_.choice(DTYPES))


def _set_shape(arrays: Arrays, name: str, random_: random.Random) -> None:
    if name in arrays:
        array = arrays[name]
        shapes: list[Any] = (
            [array.reshape(-1), array[None], array.reshape(-1, 1), np.concatenate([array, array]), array[:0]]
            if array.ndim
            else [array[None]]
        )
        arrays[name] = random_.choice([*shapes, array.reshape(-1)[:1].sum()[...]])


def _resize(arrays: Arrays, name: str, random_: random.Random) -> None:
    if name in arrays:
        arrays[name] = np.resize(arrays[name], (1, random_.choice((0, 1, 2, 5, 70, 5000))))


def _drop(arrays: Arrays, name: str, random_: random.Random) -> None:
    arrays.pop(name, None)


def _anything(arrays: Arrays, name: str, random_: random.Random) -> None:
    shape = random_.choice(((), (0,), (1, 0), (1, 1), (1, 3), (2, 2), (1, 1, 1), (0, 4)))
    dtype = random_.choice(DTYPES)
    with np.errstate(all="ignore"):
        values = [
            random_.choice([*EDGES, random_.getrandbits(40), random_.choice(STRANGERS)]) for _ in range(int(np.prod(shape)))
        ]
        arrays[random_.choice((name, name, "unknown"))] = np.array(values, np.int64).reshape(shape).astype(dtype)
