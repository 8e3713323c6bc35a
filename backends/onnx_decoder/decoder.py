"""ONNX Runtime session over a pool of KV slots: binds the cache in place and runs rows of any length.

The pool is one array a tensor, ``[slots, kv_heads, context_length + 8, head_dim]``. A run binds the contiguous range of slots
from its first row to its last, as past and as present at the same address, so nothing is ever copied; slots in between that
have no row in this run are idle. Dense layers see the packed tokens only (see docs/wire-contract.md), so idle slots cost no
matrix work. The pool lies on the device that computes; the small inputs and outputs lie here.

A row's logits are the same to the last bit however it is computed: alone or among others, whole or in chunks, decoded, verified
or sent again. Quantised activations would turn a difference of one bit into another text. The dense kernels and attention over
several queries keep that promise by themselves; attention over a single query adds up in another order. It takes queries in
blocks, so no row ever has a number of them that leaves a block with one: a token alone, or the last of 17, 33, 49, ….
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import onnxruntime

BATCHED_TOKENS = (
    8  # rows with more tokens are prefill chunks and run alone: padding them together would cost more than it saves
)
QUERY_BLOCK = 16  # queries that attention takes at a time; a block of one brings a second query along that nothing reads
BINDINGS = 256  # prepared bindings kept for decode and verification: one a (range of slots, rows, tokens)

NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


@dataclass(frozen=True)
class Row:
    """New tokens of one slot, to be appended behind the ``past`` tokens that its cache already holds."""

    slot: int
    past: int
    tokens: np.ndarray  # int32 [n], n ≥ 1
    logit_count: int = 1  # trailing positions whose candidates are wanted, 0 … n
    full_logits: bool = False


@dataclass(frozen=True)
class Candidates:
    """The most probable tokens of some positions; ``logits`` only where the whole row was asked for."""

    candidate_id: np.ndarray  # int32 [positions, k], most probable first
    candidate_logit: np.ndarray  # float32 [positions, k]
    log_normalizer: np.ndarray  # float32 [positions]
    logits: np.ndarray | None = None  # float32 [positions, vocabulary]


class Memory(Protocol):
    """One tensor of the KV pool."""

    address: int

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copies the first ``length`` positions of a slot to another one."""
        ...


class Device(Protocol):
    """What computes, as ONNX Runtime knows it, and has the KV pool."""

    @property
    def name(self) -> str:
        """ "cpu", "cuda" """

    @property
    def providers(self) -> Sequence[str | tuple[str, dict[str, str]]]:
        """The first is the one meant."""

    @property
    def copies_inputs(self) -> bool:
        """Whether inputs go there from the CPU: that happens when they are bound, not when they are used."""

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Memory:
        """Zeros."""
        ...


class Cpu:
    name = "cpu"
    providers: ClassVar[Sequence[str]] = ("CPUExecutionProvider",)
    copies_inputs = False

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Memory:
        return _CpuMemory(shape, dtype)


class _CpuMemory:
    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        # Written once now: untouched pages would be mapped during the first steps, which then take seconds.
        self._array = np.full(shape, 0, dtype)
        self.address = self._array.ctypes.data

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self._array[target, :, :length] = self._array[source, :, :length]


@dataclass(frozen=True)
class _Binding:
    io: onnxruntime.IOBinding
    inputs: dict[str, np.ndarray]  # written before each run
    outputs: dict[str, np.ndarray]  # read after it


class Decoder:
    """One model's weights and its KV pool on one device. Not thread-safe: one run at a time."""

    def __init__(
        self,
        model_path: Path,
        *,
        slots: int | Callable[[int], int],
        context_length: int,
        device: Device | None = None,
        threads: int | None = None,
    ) -> None:
        """``slots`` may be a function of the bytes that one slot takes, asked once they are known, when the weights are loaded.
        ``device``: by default the CPU. ValueError where ONNX Runtime does not compute there."""
        self.context_length, self.device = context_length, device or Cpu()
        self._session = _session(model_path, self.device, threads)
        inputs = {value.name: value for value in self._session.get_inputs()}
        self._outputs = {value.name: value for value in self._session.get_outputs()}
        self._has_query_seqlens = "query_seqlens" in inputs
        self._has_positions = "positions" in inputs
        self._cache_names = [name for name in inputs if name.startswith("past_key_values.")]
        first = inputs[self._cache_names[0]]
        _, kv_heads, _, head_dim = first.shape
        # Spare positions: attention wants room for the padded queries of a batch behind every row's past, and an unread second
        # query, or (without query_seqlens) an idle slot, writes one position behind the last token.
        self._slot_shape = (kv_heads, context_length + BATCHED_TOKENS, head_dim)
        self._cache_type = np.dtype(NUMPY_TYPES[first.type])
        self._slot_bytes = int(np.prod(self._slot_shape)) * self._cache_type.itemsize
        self.slots = slots if isinstance(slots, int) else slots(self._slot_bytes * len(self._cache_names))
        self._lengths = np.zeros(self.slots, np.int32)  # tokens in each slot's cache, as far as runs and copies tell
        shape = (self.slots, *self._slot_shape)
        self._pool = {name: self.device.allocate(shape, self._cache_type) for name in self._cache_names}
        self._bindings: dict[tuple[int, ...], _Binding] = {}

    @property
    def vocabulary_size(self) -> int:
        return int(self._outputs["logits"].shape[1])

    @property
    def candidate_count(self) -> int:
        return int(self._outputs["candidate_id"].shape[1])

    def run(self, rows: Sequence[Row]) -> list[Candidates]:
        """Appends every row's tokens to its slot and returns the candidates of each row, in order.

        Rows of one call lie in different slots. Decode and verification rows share one forward pass; prefill chunks run alone.
        """
        batched_tokens = BATCHED_TOKENS if self._has_query_seqlens else 1
        batch = [index for index, row in enumerate(rows) if len(row.tokens) <= batched_tokens]
        alone = [[index] for index, row in enumerate(rows) if len(row.tokens) > batched_tokens]
        results: list[Candidates | None] = [None] * len(rows)
        for group in ([batch] if batch else []) + alone:
            ordered = sorted(group, key=lambda index: rows[index].slot)
            for index, candidates in zip(ordered, self._run_group([rows[index] for index in ordered]), strict=True):
                results[index] = candidates
        return [candidates for candidates in results if candidates is not None]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copies the first ``length`` positions of a slot's cache to another slot."""
        for memory in self._pool.values():
            memory.copy_prefix(source, target, length)
        self._lengths[target] = length

    def _run_group(self, rows: list[Row]) -> list[Candidates]:
        """One forward pass over rows in ascending slots."""
        first = rows[0].slot
        batch = rows[-1].slot - first + 1
        counts = np.array([len(row.tokens) for row in rows])
        longest, total = int(self._queries(counts).max()), int(counts.sum())
        wanted = [row.logit_count for row in rows]
        binding = self._binding(first, batch, longest, total, sum(wanted), any(row.full_logits for row in rows))
        self._fill(binding.inputs, rows, first, counts)
        if self.device.copies_inputs:
            _bind_inputs(binding)
        self._session.run_with_iobinding(binding.io)
        for row in rows:
            self._lengths[row.slot] = row.past + len(row.tokens)
        return _split(binding.outputs, rows)

    def _fill(self, inputs: dict[str, np.ndarray], rows: list[Row], first: int, counts: np.ndarray) -> None:
        places = np.array([row.slot for row in rows]) - first  # of each row in the padded view
        pasts = np.array([row.past for row in rows])
        ends = np.cumsum(counts)
        packed = np.arange(ends[-1])
        offsets = packed - np.repeat(ends - counts, counts)  # of each packed token in its row
        padded = np.repeat(places, counts) * inputs["unpack_index"].shape[1] + offsets

        inputs["tokens"][:] = np.concatenate([row.tokens for row in rows])
        inputs["pack_index"][:] = padded
        inputs["unpack_index"][:] = 0
        inputs["unpack_index"][places] = (ends - 1)[:, None]  # any query beyond a row's own repeats its last token
        inputs["unpack_index"].reshape(-1)[padded] = packed
        if self._has_positions:
            inputs["positions"][:] = np.repeat(pasts, counts) + offsets
        queries = self._queries(counts)
        if self._has_query_seqlens:
            inputs["query_seqlens"][:] = 0
            inputs["query_seqlens"][places] = queries
            inputs["seqlens_k"][:] = 0  # an idle slot has no query; its length does not matter
        else:
            # An idle slot writes one token behind its last, which nothing reads.
            inputs["seqlens_k"][:] = self._lengths[first : first + len(inputs["seqlens_k"])]
        inputs["seqlens_k"][places] = pasts + queries - 1
        inputs["total_sequence_length"][...] = inputs["seqlens_k"].max() + 1
        inputs["logit_index"][:] = np.concatenate(
            [np.arange(end - row.logit_count, end) for row, end in zip(rows, ends, strict=True)]
        )

    def _queries(self, counts: np.ndarray) -> np.ndarray:
        """How many queries rows of so many tokens have in attention."""
        return counts + (counts % QUERY_BLOCK == 1) if self._has_query_seqlens else counts

    def _binding(self, first: int, batch: int, longest: int, total: int, positions: int, full: bool) -> _Binding:
        key = (first, batch, longest, total, positions, full)
        if full or longest > BATCHED_TOKENS:
            return self._bind(*key)  # full logits take megabytes, and the shapes of prefills hardly come again
        binding = self._bindings.pop(key, None) or self._bind(*key)
        self._bindings[key] = binding  # dicts keep order: the least recently used comes first
        if len(self._bindings) > BINDINGS:
            del self._bindings[next(iter(self._bindings))]
        return binding

    def _bind(self, first: int, batch: int, longest: int, total: int, positions: int, full: bool) -> _Binding:
        inputs: dict[str, np.ndarray] = {
            "tokens": np.zeros(total, np.int64),
            "pack_index": np.zeros(total, np.int64),
            "unpack_index": np.zeros((batch, longest), np.int64),
            "seqlens_k": np.zeros(batch, np.int32),
            "total_sequence_length": np.zeros((), np.int32),
            "logit_index": np.zeros(positions, np.int64),
        }
        if self._has_positions:
            inputs["positions"] = np.zeros(total, np.int64)
        if self._has_query_seqlens:
            inputs["query_seqlens"] = np.zeros(batch, np.int32)
        k = self.candidate_count
        outputs: dict[str, np.ndarray] = {
            "candidate_id": np.zeros((positions, k), np.int32),
            "candidate_logit": np.zeros((positions, k), np.float32),
            "log_normalizer": np.zeros(positions, np.float32),
        }
        if full:
            outputs["logits"] = np.zeros((positions, self.vocabulary_size), np.float32)

        io = self._session.io_binding()
        for name, array in outputs.items():
            io.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        shape = (batch, *self._slot_shape)
        for name, memory in self._pool.items():
            address = memory.address + first * self._slot_bytes
            present = name.replace("past_key_values", "present")
            io.bind_input(name, self.device.name, 0, self._cache_type, shape, address)
            io.bind_output(present, self.device.name, 0, self._cache_type, shape, address)
        binding = _Binding(io, inputs, outputs)
        _bind_inputs(binding)
        return binding


def _bind_inputs(binding: _Binding) -> None:
    for name, array in binding.inputs.items():
        binding.io.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _split(outputs: dict[str, np.ndarray], rows: list[Row]) -> list[Candidates]:
    """Cuts the run's outputs into rows; copied once, since the next run with this binding writes over them."""
    ids, logits, normalizer = (outputs[name].copy() for name in ("candidate_id", "candidate_logit", "log_normalizer"))
    results, end = [], 0
    for row in rows:
        start, end = end, end + row.logit_count
        full = outputs["logits"][start:end].copy() if row.full_logits else None
        results.append(Candidates(ids[start:end], logits[start:end], normalizer[start:end], full))
    return results


def _session(model_path: Path, device: Device, threads: int | None) -> onnxruntime.InferenceSession:
    providers: list[Any] = list(device.providers)
    session = onnxruntime.InferenceSession(str(model_path), _session_options(threads), providers=providers)
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != wanted:  # where one fails, ONNX Runtime takes the next, in silence
        raise ValueError(f"ONNX Runtime could not start its {wanted}; what it says stands in Triton's log")
    return session


def _session_options(threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    # Threads spin between the parts of a run, where a wake-up would take longer, but not behind it: there the gateway works.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options
