"""What every engine's process speaks: one JSON object a line, on stdin what is asked, on stdout what came of it.

    {"do": "decode", "prompts": [[ids], …], "tokens": 32}  →  {"prefill_seconds": …, "seconds": …, "texts": [[ids], …]}
    {"do": "prefill", "prompt": [ids]}                     →  {"seconds": …}
    {"do": "texts", "prompts": [[ids], …], "tokens": 48}   →  {"texts": [[ids], …]}
    {"do": "logits", "tokens": [ids], "path": "x.npy"}     →  {"path": "x.npy"}, transformers only

`seconds` of a decode are those from each stream's first token to its last, all streams together, greedy; so they hold
``tokens - 1`` tokens a stream. The first line out says what the engine is and was given; it comes once the model is loaded.
Standard library only: the processes run in the peers' own environments.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

Handler = Callable[..., Mapping[str, Any]]


def serve(given: str, **handlers: Handler) -> None:
    """Answers until stdin ends. What a handler raises is the answer to its request, not the end."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is no answer
    print(json.dumps({"given": given}), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = dict(handlers[asked.pop("do")](**asked))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)
