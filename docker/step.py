"""Runs a real step of every model that Triton serves: `python step.py`, the health check of Triton's container.

Triton's own readiness is not enough: it does not notice that a model's process is dead or that a GPU has failed.
docs/wire-contract.md describes a step. Standard library only.
"""

import http.client
import json
import sys
from typing import Any

HTTP_PORT = 8000  # only on the container's loopback address
STEP_TIMEOUT = 10.0  # seconds; a step over many long prompts takes a few
# A step with no rows: the backend computes one discarded token and takes no slot.
NOTHING = {"name": "release", "datatype": "UINT64", "shape": [1, 0], "data": []}


class StepFailed(Exception):
    """A model or Triton itself did not respond as expected. The message says which, and what the response was."""


def step_all() -> list[str]:
    """The names of the models that responded; empty if none is loaded. Raises StepFailed if one did not respond."""
    ready = _ask("/v2/repository/index", {"ready": True})
    for model in ready:
        path = f"/v2/models/{model['name']}/versions/{model['version']}/infer"
        _ask(path, {"inputs": [NOTHING], "outputs": [{"name": "results"}]})
    return [model["name"] for model in ready]


def _ask(path: str, question: dict[str, Any]) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=STEP_TIMEOUT)  # ignores proxies
    try:
        connection.request("POST", path, json.dumps(question), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise StepFailed(f"{path}: {error}") from error
    if answer.status != 200:
        raise StepFailed(f"{path}: {answer.status} {body[:500].decode(errors='replace')}")
    return json.loads(body)


if __name__ == "__main__":
    try:
        if not step_all():
            sys.exit("no model is loaded")
    except StepFailed as error:
        sys.exit(str(error))
