"""Runs an ONNX Runtime session over a pool of KV slots: binds the cache in place and takes rows of any length.

The pool has one array per cache tensor, ``[slots, kv_heads, context_length + 8, head_dim]``. A run binds the contiguous range
of slots that covers its rows, with past and present at the same address, so the cache is never copied. Slots in that range
without a row are idle. Dense layers see only the packed tokens (see docs/wire-contract.md), so idle slots cost no matrix work.
The pool is in device memory; the small inputs and outputs are in host memory.

A row's logits are bitwise identical however it is computed: alone or batched, whole or in chunks, decoded, verified or resent.
With quantised activations, a difference of one bit could change the generated text. The dense kernels and attention over
multiple queries are reproducible by themselves, but attention over a single query sums in a different order. Attention
processes queries in blocks, so no row may leave a block with a single query: one token alone, or the last of 17, 33, 49, ….
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .contract.limits import JOINED_TOKENS
from .device import Cpu, Device
from .layout import Batch, Layout

SHORT_CHUNK = 64  # tokens; in longer prefill chunks, reading the weights costs little, so sharing a pass gains nothing
MOST_PADDING = 4  # maximum ratio of padded size to tokens when short chunks share a pass
BINDINGS = 256  # bindings cached for decode and verification, one per (range of slots, rows, tokens)
# Inputs that change between passes of the same layout.
CHANGING = ("tokens", "previous", "positions", "seqlens_k", "total_sequence_length")

NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


@dataclass(frozen=True)
class Row:
    """New tokens of one slot, appended after the ``past`` tokens already in its cache."""

    slot: int
    past: int
    tokens: np.ndarray  # int32 [n], n ≥ 1
    logit_count: int = 1  # trailing positions to return candidates for, 0 … n
    full_logits: bool = False


@dataclass(slots=True)
class Candidates:
    """The most probable tokens at some positions, and full ``logits`` for rows that requested them."""

    candidate_id: np.ndarray  # int32 [positions, k], most probable first
    candidate_logit: np.ndarray  # float32 [positions, k]
    log_normalizer: np.ndarray  # float32 [positions]
    logits: np.ndarray | None = None  # float32 [requested positions, vocabulary]


@dataclass
class _Binding:
    io: onnxruntime.IOBinding
    inputs: dict[str, np.ndarray]  # written before each run
    outputs: dict[str, np.ndarray]  # read after each run
    layout: Layout | None = None  # the layout that the inputs were written for


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
        options: onnxruntime.SessionOptions | None = None,
    ) -> None:
        """``slots`` may be a function of the bytes per slot; it is called once the weights are loaded. ``device`` defaults to
        the CPU, ``options`` to `session_options`. Raises ValueError if ONNX Runtime cannot use the device."""
        self.context_length, self.device = context_length, device or Cpu()
        self._session = _session(model_path, self.device, options or session_options(threads))
        inputs = {value.name: value for value in self._session.get_inputs()}
        outputs = {value.name: value for value in self._session.get_outputs()}
        self._has_query_seqlens = "query_seqlens" in inputs
        self._has_positions = "positions" in inputs
        self._cache_names = [name for name in inputs if name.startswith("past_key_values.")]
        self.vocabulary_size, self.candidate_count = (int(outputs[name].shape[1]) for name in ("logits", "candidate_id"))
        first = inputs[self._cache_names[0]]
        _, kv_heads, _, head_dim = first.shape
        # Spare positions: attention needs room for a batch's padded queries after every row's past. An unread second query,
        # or (without query_seqlens) an idle slot, writes one position past the last token.
        self._slot_shape = (kv_heads, context_length + JOINED_TOKENS, head_dim)
        self._cache_type = np.dtype(NUMPY_TYPES[first.type])
        self._slot_bytes = int(np.prod(self._slot_shape)) * self._cache_type.itemsize  # per cache tensor
        self.slot_bytes = self._slot_bytes * len(self._cache_names)
        self.slots = slots if isinstance(slots, int) else slots(self.slot_bytes)
        self._lengths = np.zeros(self.slots, np.int32)  # tokens in each slot's cache, according to runs and copies
        # The cached tokens, kept only if the graph reads each token's predecessor.
        self._tokens = np.zeros((self.slots, context_length), np.int32) if "previous" in inputs else None
        shape = (self.slots, *self._slot_shape)
        self._pool = {name: self.device.allocate(shape, self._cache_type) for name in self._cache_names}
        self._bindings: dict[tuple[int, ...], _Binding] = {}
        self._layout: Layout | None = None  # of the last pass

    @property
    def joined_tokens(self) -> int:
        """Rows with more tokens are prefill chunks: padding decode rows to their length would cost more than it saves."""
        return JOINED_TOKENS if self._has_query_seqlens else 1

    def run(self, rows: Sequence[Row]) -> list[Candidates]:
        """Like `forward`, but returns separate candidates for each row."""
        wanted = [row.logit_count for row in rows]
        found = self.forward(
            Batch(
                slots=np.array([row.slot for row in rows], np.int64),
                pasts=np.array([row.past for row in rows], np.int64),
                counts=np.array([len(row.tokens) for row in rows], np.int64),
                wanted=np.array(wanted, np.int64),
                full=np.array([row.full_logits for row in rows], np.bool_),
                tokens=np.concatenate([row.tokens for row in rows]),
            )
        )
        results, end, full_end = [], 0, 0
        for row in rows:
            start, end = end, end + row.logit_count
            full_start, full_end = full_end, full_end + row.logit_count * row.full_logits
            full = found.logits[full_start:full_end] if row.full_logits and found.logits is not None else None
            ids, logits, normalizer = found.candidate_id, found.candidate_logit, found.log_normalizer
            results.append(Candidates(ids[start:end], logits[start:end], normalizer[start:end], full))
        return results

    def forward(self, batch: Batch) -> Candidates:
        """Appends every row's tokens to its slot. Returns the candidates of the requested positions, row by row.

        Decode and verification rows share one forward pass. Short prefill chunks share another; long ones run alone.
        """
        if self._layout is not None and self._layout.holds(batch):
            return self._pass(self._layout, batch)
        groups = self._groups(batch)
        if len(groups) == 1:
            return self._pass(self._new_layout(batch), batch)
        parts = [batch.of(group) for group in groups]
        found = [self._pass(self._new_layout(part), part) for part in parts]
        rows = np.concatenate(groups)  # in order of computation
        order = np.repeat(rows, batch.wanted[rows]).argsort(kind="stable")
        full = [one.logits for one in found if one.logits is not None]
        full_order = np.repeat(rows, (batch.wanted * batch.full)[rows]).argsort(kind="stable")
        return Candidates(
            np.concatenate([one.candidate_id for one in found])[order],
            np.concatenate([one.candidate_logit for one in found])[order],
            np.concatenate([one.log_normalizer for one in found])[order],
            np.concatenate(full)[full_order] if full else None,
        )

    def _groups(self, batch: Batch) -> list[np.ndarray]:
        """Returns the row indices of each pass."""
        chunks, short = batch.counts > self.joined_tokens, batch.counts <= SHORT_CHUNK
        together = np.flatnonzero(chunks & short) if self._has_query_seqlens else np.zeros(0, np.int64)
        if len(together) > 1:
            lines, longest = np.ptp(batch.slots[together]) + 1, batch.counts[together].max()
            padded = lines * longest > MOST_PADDING * batch.counts[together].sum()
            if padded or (batch.pasts[together] + longest).max() > self._slot_shape[1]:
                together = together[:0]
        alone = chunks.copy()
        alone[together] = False
        return [group for group in (np.flatnonzero(~chunks), together, *np.flatnonzero(alone)[:, None]) if len(group)]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copies the first ``length`` positions of a slot's cache to another slot."""
        for memory in self._pool.values():
            memory.copy_prefix(source, target, length)
        self._lengths[target] = length
        if self._tokens is not None:
            self._tokens[target, :length] = self._tokens[source, :length]

    def _new_layout(self, batch: Batch) -> Layout:
        self._layout = Layout(batch, self._has_query_seqlens)
        return self._layout

    def _pass(self, layout: Layout, batch: Batch) -> Candidates:
        """One run of the graph."""
        binding = self._binding(layout)
        changed = self._fill(binding, layout, batch)
        self._compute(binding, changed)
        if not self._has_query_seqlens:
            self._lengths[batch.slots] = batch.pasts + batch.counts
        # Copied because the next run with this binding overwrites them.
        ids, logits, normalizer = (
            binding.outputs[name].copy() for name in ("candidate_id", "candidate_logit", "log_normalizer")
        )
        full = binding.outputs["logits"][np.repeat(batch.full, batch.wanted)] if "logits" in binding.outputs else None
        return Candidates(ids, logits, normalizer, full)

    def _compute(self, binding: _Binding, changed: Iterable[str]) -> None:
        if self.device.copies_inputs:
            _bind_inputs(binding, changed)
        self._session.run_with_iobinding(binding.io)

    def _fill(self, binding: _Binding, layout: Layout, batch: Batch) -> Iterable[str]:
        """Writes the inputs of a run. Returns the names of the inputs written."""
        inputs = binding.inputs
        changed: Iterable[str] = CHANGING
        if binding.layout is not layout:
            layout.write(inputs)
            binding.layout, changed = layout, inputs
        inputs["tokens"][:] = batch.tokens
        if self._tokens is not None:
            inputs["previous"][:] = layout.previous(batch, self._tokens)
        if self._has_positions:
            inputs["positions"][:] = np.repeat(batch.pasts, batch.counts) + layout.offsets
        lengths = inputs["seqlens_k"]
        if not self._has_query_seqlens:
            # An idle slot writes one token past its last one, which nothing reads.
            lengths[:] = self._lengths[layout.first : layout.first + len(lengths)]
        lengths[layout.lines] = batch.pasts + layout.last_queries
        inputs["total_sequence_length"][...] = lengths.max() + 1
        return changed

    def _binding(self, layout: Layout) -> _Binding:
        *_, longest, _, _, full = shape = layout.shape
        if full or longest > JOINED_TOKENS:
            return self._bind(*shape)  # full logits take megabytes, and prefill shapes rarely repeat
        binding = self._bindings.pop(shape, None) or self._bind(*shape)
        self._bindings[shape] = binding  # dicts keep insertion order: the least recently used is first
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
        if self._tokens is not None:
            inputs["previous"] = np.zeros(total, np.int64)
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
        _bind_inputs(binding, inputs)
        return binding


def _bind_inputs(binding: _Binding, names: Iterable[str]) -> None:
    for name in names:
        if (array := binding.inputs.get(name)) is not None:
            binding.io.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _session(model_path: Path, device: Device, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    providers: list[Any] = list(device.providers)
    session = onnxruntime.InferenceSession(str(model_path), options, providers=providers)
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != wanted:  # ONNX Runtime silently falls back to the next provider
        raise ValueError(f"ONNX Runtime could not start its {wanted}; what it says stands in Triton's log")
    return session


def session_options(threads: int | None = None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    # Threads spin within a run, where waking them would take longer, but not after it: the gateway needs the cores then.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options
