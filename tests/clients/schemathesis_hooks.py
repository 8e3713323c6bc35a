"""Loaded by schemathesis (SCHEMATHESIS_HOOKS): valid cases reach a model and ask for short texts."""

from typing import Any

import schemathesis

MODEL = "latest_checkpoint.pt"
LONGEST = 3  # tokens of an answer, and answers
LENGTHS = {
    "/generate": "max_length",
    "/v1/completions": "max_tokens",
    "/v1/chat/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/messages": "max_tokens",
}
LARGEST = dict.fromkeys([*LENGTHS.values(), "max_completion_tokens", "min_tokens"], 1_000_000) | {
    "max_length": 512,
    "n": 128,
    "best_of": 128,
}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Numbers that are allowed become small ones, names of models the one that is served. What is refused stays as it is."""
    body = case.body
    if not isinstance(body, dict):
        return
    for name, largest in LARGEST.items():
        if type(body.get(name)) is int and LONGEST < body[name] <= largest:
            body[name] = LONGEST
    if isinstance(body.get("model"), str):
        body["model"] = MODEL
    length = LENGTHS.get(case.operation.path)
    if length is not None and body.get(length) is None:
        body[length] = LONGEST
