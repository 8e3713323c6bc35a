"""The graph's sampling outputs: the most probable tokens, and the normalizer that turns their logits into log probabilities."""

import numpy as np
from onnx import TensorProto

from export.onnx_writer import OnnxWriter


def write_candidates(onnx: OnnxWriter, count: int) -> None:
    """Computes ``candidate_id``, ``candidate_logit`` [R, count] and ``log_normalizer`` [R] from ``logits`` [R, vocabulary].

    log(sum(exp(logits))) = best − log(softmax(logits)[best]); ReduceLogSumExp is seven times slower and less exact.
    """
    k = onnx.initializer("candidate_count", np.array([count]))
    onnx.node("TopK", ["logits", k], ["candidate_logit", "candidate_id_int64"], axis=-1, largest=1, sorted=1)
    onnx.node("Cast", ["candidate_id_int64"], ["candidate_id"], to=TensorProto.INT32)
    first, second = (onnx.initializer(f"index_{index}", np.array([index])) for index in range(2))
    best, best_id = (onnx.node("Slice", [x, first, second, second]) for x in ("candidate_logit", "candidate_id_int64"))
    share = onnx.node("GatherElements", [onnx.node("Softmax", ["logits"], axis=-1), best_id], axis=1)
    onnx.node("Squeeze", [onnx.node("Sub", [best, onnx.node("Log", [share])]), second], ["log_normalizer"])
