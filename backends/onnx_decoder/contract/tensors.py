"""Every tensor on the wire: name, type, shape, meaning. The source for config.pbtxt, both sides and docs/wire-contract.md.

Related numbers of a row share a tensor, because each tensor adds 11 to 17 µs to a step, whatever its size.
"""

from typing import NamedTuple

import numpy as np

DATATYPES = {  # Triton's names
    np.dtype(np.bool_): "BOOL",
    np.dtype(np.uint8): "UINT8",
    np.dtype(np.int32): "INT32",
    np.dtype(np.uint64): "UINT64",
    np.dtype(np.float32): "FP32",
    np.dtype(np.float64): "FP64",
}


class Tensor(NamedTuple):
    dtype: np.dtype
    shape: tuple[str, ...]  # what each dimension counts, without the leading batch dimension of 1
    meaning: str

    @property
    def datatype(self) -> str:
        """Triton's name for the type."""
        return DATATYPES[self.dtype]


# Columns, in order, of the tensors that hold more than one number per row.
ROW_FIELDS = {
    "past_length": "tokens that the gateway believes are cached; 0 begins a sequence, smaller than what is cached rolls back",
    "token_count": "tokens of the row in `tokens`: everything the gateway holds beyond `past_length`, at least 1",
    "token_limit": "how many of them this step may compute, at least 1: the size of a prefill chunk",
    "logit_count": "for how many trailing positions of the row candidates are wanted: 0, 1 to decode, 1 + drafts to verify",
    "full_logits": "1 where the whole row of logits is wanted at those positions, besides the candidates; else 0",
    "run_ahead": "how many tokens the backend may draw and compute behind the row's own, 0 … 64; see *Run-ahead*",
    "ignore_end": "1 where a run-ahead goes on behind an end token; else 0",
}
RULE_FIELDS = {
    "temperature": "0 takes the most probable candidate",
    "top_k": "candidates that may be drawn; 0: all of them",
    "top_p": "the smallest set of candidates with this share of the probability; 1: all",
    "min_p": "candidates with this share of the first one's probability; 0: all",
}
RESULT_FIELDS = {
    "cached_length": "tokens cached after this step; −1: the sequence is unknown here, send all its tokens with "
    "`past_length` 0; −2: no slot is free, try again later",
    "reused_length": "how many of them this step found cached and did not compute; 0 where `cached_length` is negative",
    "drawn_count": "how many of them the backend has drawn itself",
    "compute_time": "microseconds that the step took in the backend, the same for each row: what is learned for a time budget",
}


def _tensor(dtype: type[np.generic], shape: str, meaning: str) -> Tensor:
    return Tensor(np.dtype(dtype), tuple(shape.split(", ")), meaning)


# Triton treats all inputs as optional. An absent input is empty.
INPUTS = {
    "sequence_id": _tensor(
        np.uint64, "rows", "random, the highest 16 bits the same for all of a gateway; unique in the request"
    ),
    "rows": _tensor(np.int32, f"rows, {len(ROW_FIELDS)}", "of each row " + ", ".join(f"`{name}`" for name in ROW_FIELDS)),
    "tokens": _tensor(np.int32, "sum of token_count", "packed, row by row"),
    "rule": _tensor(
        np.float64,
        f"rows, {len(RULE_FIELDS)}",
        "of each row " + ", ".join(f"`{name}`" for name in RULE_FIELDS) + "; only where a row runs ahead",
    ),
    "seed": _tensor(np.uint64, "rows", "of each row's draws; only where a row runs ahead"),
    "time_budget": _tensor(np.int32, "1", "microseconds that a run-ahead may take the step to; absent: any"),
    "release": _tensor(
        np.uint64, "any", "sequences that ended: their slots become idle, their cache may still serve as another's prefix"
    ),
    "fingerprint": _tensor(
        np.uint64,
        "1",
        "the first 16 hexadecimal digits of the fingerprint of the model that the step is meant for; absent: any",
    ),
    "describe": _tensor(np.bool_, "1", "instead of a step: asks for `description`; false: for its `parameters` alone"),
}
OUTPUTS = {
    "results": _tensor(
        np.int32, f"rows, {len(RESULT_FIELDS)}", "of each row " + ", ".join(f"`{name}`" for name in RESULT_FIELDS)
    ),
    "candidate_id": _tensor(np.int32, "positions, k", "token ids, most probable first"),
    "candidate_logit": _tensor(np.float32, "positions, k", "their logits"),
    "log_normalizer": _tensor(np.float32, "positions", "log of the sum of exp of all logits"),
    "logits": _tensor(np.float32, "asked positions, vocabulary", "only of rows with `full_logits`; absent where there is none"),
    "drawn": _tensor(np.int32, "sum of drawn_count", "what the backend has drawn, row by row; absent where that is nothing"),
    "description": _tensor(np.uint8, "bytes", "JSON, see *Description*"),
}
