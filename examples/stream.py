"""One streamed text from /generate with nothing but httpx: `python -m examples.stream "One, two, three,"`.

Each event is a line `data: {…}`; lines that begin with a colon are comments, sent while a text waits; `[DONE]` is the end.
"""

import json
import os
import sys
from collections.abc import Iterator

import httpx

URL = os.environ.get("TIDEGATE_URL", "http://localhost:5002")
KEY = os.environ.get("MY_API_KEY", "a_default_key_for_testing")


def generate(prompt: str, **parameters: object) -> Iterator[str]:
    """The pieces of the text, without the prompt. Raises RuntimeError with the server's sentence."""
    body = {"prompt": prompt, "stream": True} | parameters
    with httpx.stream("POST", f"{URL}/generate", json=body, headers={"X-API-Key": KEY}, timeout=120) as response:
        if response.status_code != 200:
            raise RuntimeError(json.loads(response.read())["error"]["message"])
        for line in response.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            if event["status"] == "error":  # in the middle of a text: its beginning has been sent
                raise RuntimeError(event["error"]["message"])
            yield event["data"]["text"]


if __name__ == "__main__":
    try:
        for piece in generate(sys.argv[1], max_length=12, temperature=0):
            print(piece, end="", flush=True)
        print()
    except RuntimeError as error:
        sys.exit(str(error))
