"""Steps at random for the real backend: contract, pool, stepper and ONNX Runtime over a tiny model.

Whatever arrives, only BadStep comes out, and a good sequence between the bad ones gets the tokens that it gets alone.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from backends.onnx_decoder.contract.drawing import DrawingRule
from backends.onnx_decoder.contract.limits import NO_SLOT, UNKNOWN
from backends.onnx_decoder.contract.request import BadStep, Step
from backends.onnx_decoder.contract.step import StepAnswer, StepRow, encode_step
from backends.onnx_decoder.contract.tensors import INPUTS
from tests.backend.in_process import Backend

SLOTS, CONTEXT = 4, 64
STRANGERS = range(1, 7)  # sequence ids of the random steps: more than there are slots
EDGES = [0, 1, -1, 2, 7, 8, 9, 63, 64, 65, 2**15, 2**31 - 1, -(2**31), 2**32, 2**63 - 1, -(2**63)]
DTYPES = [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint32, np.uint64, np.bool_, np.float16, np.float32, np.float64]
TENSORS = [name for name in INPUTS if name != "describe"]
GOOD_LENGTH = 10  # tokens that the good sequence generates before it is compared
GREEDY = DrawingRule(0.0, 0, 1.0, 0.0, 0)
END_TOKEN = 5  # where one begins a run-ahead stops

Arrays = dict[str, np.ndarray]


@dataclass
class Figures:
    cases: int = 0
    refused: int = 0
    rows: int = 0  # of the steps that were run
    drawn: int = 0  # tokens that they drew
    compared: int = 0  # good sequences
    said: set[str] = field(default_factory=set)  # fields that refusals named


class GoodSequence:
    """Greedy decoding as a gateway does it: sends again what is not cached, makes room where there is none."""

    def __init__(self, backend: Backend, sequence_id: int, prompt: Sequence[int], limit: int, run_ahead: int = 0) -> None:
        self.backend, self.sequence_id, self.tokens, self.limit = backend, sequence_id, list(prompt), limit
        self.prompt, self.cached, self.run_ahead = len(prompt), 0, run_ahead

    @property
    def generated(self) -> list[int]:
        return self.tokens[self.prompt :]

    def advance(self) -> None:
        """One more token, or as many as a run-ahead gives, through as many steps as that takes."""
        for _ in range(4 + len(self.tokens)):
            new = np.array(self.tokens[self.cached :], np.int32)
            ahead = min(self.run_ahead, GOOD_LENGTH - len(self.generated) - 1)
            row = StepRow(self.sequence_id, self.cached, new, self.limit, run_ahead=ahead, rule=GREEDY)
            answer = self.backend.step(row)
            (cached,) = answer.cached_length.tolist()
            if cached == UNKNOWN:
                self.cached = 0
            elif cached == NO_SLOT:
                self.backend.step(release=range(1, self.sequence_id))
            else:
                self.cached = cached
                if len(answer.candidate_id):
                    assert answer.drawn.tolist() == answer.candidate_id[:-1, 0].tolist()
                    self.tokens += answer.candidate_id[:, 0].tolist()
                    return
        raise AssertionError("a good sequence does not come on")


def fuzz(model: Path, cases: int, seed: int, progress: Callable[[Figures], None] = lambda figures: None) -> Figures:
    """AssertionError or whatever the backend raised, with the number of the case."""
    random_ = random.Random(seed)
    backend, fresh = (Backend(model, SLOTS, CONTEXT, [END_TOKEN]) for _ in range(2))
    figures = Figures()
    good = _good(backend, random_, 1000)
    for case in range(cases):
        requests = [_mutated(_valid(random_, backend), random_) for _ in range(random_.choice((1, 1, 1, 2, 3)))]
        try:
            steps, refusals = _read(backend, requests)
            for step, answer in zip(steps, backend.answer(steps), strict=True):
                _check(step, answer)
                figures.rows += len(step.rows)
                figures.drawn += len(answer.drawn)
            good.advance()
        except Exception as exc:
            exc.add_note(f"case {case} of seed {seed}: {requests}")
            raise
        figures.cases += 1
        figures.refused += bool(refusals)
        figures.said |= {str(refusal).partition(":")[0] for refusal in refusals}
        if len(good.generated) == GOOD_LENGTH:
            _compare(good, fresh, f"case {case} of seed {seed}")
            figures.compared += 1
            backend.step(release=[good.sequence_id])
            good = _good(backend, random_, good.sequence_id + 1)
        progress(figures)
    return figures


def _read(backend: Backend, requests: Sequence[Arrays]) -> tuple[list[Step], list[BadStep]]:
    steps, refusals = [], []
    for arrays in requests:
        try:
            steps.append(backend.read(arrays))
        except BadStep as exc:
            refusals.append(exc)
    return steps, refusals


def _good(backend: Backend, random_: random.Random, sequence_id: int) -> GoodSequence:
    prompt = [random_.randrange(backend.limits.vocabulary_size) for _ in range(random_.randint(1, CONTEXT - GOOD_LENGTH))]
    if random_.random() < 0.5:  # a prefix that others are likely to share
        prompt = [3] * len(prompt)
    return GoodSequence(backend, sequence_id, prompt, random_.choice((1, 5, 16, 64)), random_.choice((0, 0, 1, 4)))


def _compare(good: GoodSequence, fresh: Backend, where: str) -> None:
    """With the same prompt over an empty pool, whole, token by token."""
    fresh.forget()
    alone = GoodSequence(fresh, 1, good.tokens[: good.prompt], CONTEXT)
    for _ in range(GOOD_LENGTH):
        alone.advance()
    assert alone.generated == good.generated, f"{where}: {good.generated} instead of {alone.generated}"


def _check(step: Step, answer: StepAnswer) -> None:
    """What is promised of the sizes of an answer's parts."""
    rows = step.rows
    ends = rows.past_length + rows.token_count + answer.drawn_count
    refused = np.isin(answer.cached_length, (UNKNOWN, NO_SLOT))
    assert (refused | ((answer.cached_length >= 1) & (answer.cached_length <= ends))).all()
    assert (answer.drawn_count <= rows.run_ahead).all() and answer.drawn_count.sum() == len(answer.drawn)
    ended = answer.cached_length == ends
    positions = np.where(ended, rows.logit_count + answer.drawn_count, 0)
    assert positions.sum() == len(answer.candidate_id) == len(answer.candidate_logit) == len(answer.log_normalizer)
    assert np.isfinite(answer.candidate_logit).all()
    assert len(answer.logits) == np.where(ended & (rows.full_logits > 0), rows.logit_count, 0).sum()
    assert not (np.repeat(rows.ignore_end == 0, answer.drawn_count) & (answer.drawn == END_TOKEN)).any()


def _valid(random_: random.Random, backend: Backend) -> Arrays:
    rows = []
    for sequence in random_.sample(STRANGERS, random_.randint(0, 4)):
        past = random_.choice((0, 0, random_.randrange(CONTEXT)))
        count = random_.randint(1, random_.choice((1, 4, CONTEXT - past)) if past < CONTEXT - 4 else 1)
        tokens = [random_.choice((3, random_.randrange(backend.limits.vocabulary_size))) for _ in range(count)]
        limit = random_.randint(1, CONTEXT)
        row = StepRow(sequence, past, np.array(tokens, np.int32), limit, random_.randint(0, min(count, limit)))
        if random_.random() < 0.3:
            rule = DrawingRule(random_.choice((0.0, 1.0)), random_.choice((0, 1, 40)), 0.9, 0.0, random_.getrandbits(64))
            ahead = random_.randint(0, min(6, CONTEXT - past - count))
            row = replace(row, logit_count=1, run_ahead=ahead, rule=rule, ignore_end=random_.random() < 0.3)
        elif random_.random() < 0.3:
            row = replace(row, full_logits=True)
        rows.append(row)
    release = random_.sample(STRANGERS, random_.randint(0, 3)) if random_.random() < 0.4 else []
    return encode_step(rows, release, "0", random_.choice((None, 0, 10**6)))


def _mutated(arrays: Arrays, random_: random.Random) -> Arrays:
    """With up to three changes; often with none."""
    for _ in range(random_.choice((0, 0, 1, 1, 2, 3))):
        name = random_.choice([*TENSORS, "rows", "rows", "tokens"])
        random_.choice((_set_value, _set_dtype, _set_shape, _resize, _drop, _anything))(arrays, name, random_)
    return arrays


def _set_value(arrays: Arrays, name: str, random_: random.Random) -> None:
    array = arrays.get(name)
    if array is not None and array.size:
        array = array.copy()
        # modulo: an edge of a wider type is some edge of this one
        value = np.array([random_.choice([*EDGES, *EDGES, random_.getrandbits(63)])], np.int64)
        with np.errstate(all="ignore"):
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
        arrays[name] = np.resize(arrays[name], (1, random_.choice((0, 1, 2, 5, 70, 5000)), *arrays[name].shape[2:]))


def _drop(arrays: Arrays, name: str, random_: random.Random) -> None:
    arrays.pop(name, None)


def _anything(arrays: Arrays, name: str, random_: random.Random) -> None:
    shape = random_.choice(((), (0,), (1, 0), (1, 1), (1, 3), (2, 2), (1, 1, 1), (0, 4), (1, 1, 4), (1, 1, 7)))
    dtype = random_.choice(DTYPES)
    with np.errstate(all="ignore"):
        values = [
            random_.choice([*EDGES, random_.getrandbits(40), random_.choice(STRANGERS)]) for _ in range(int(np.prod(shape)))
        ]
        arrays[random_.choice((name, name, "unknown"))] = np.array(values, np.int64).reshape(shape).astype(dtype)
