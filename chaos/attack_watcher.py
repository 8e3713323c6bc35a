"""A stream and a liveness probe beside what `chaos.attacks` sends: `python -m chaos.attack_watcher HOST:PORT`.

Says "begun" once the stream writes, and at the first line that it reads the slowest answer to /livez (seconds) and the stream's
events a second since then.
"""

import http.client
import json
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any

KEY = "an-ordinary-key"
HEADERS = {"Content-Type": "application/json", "X-API-Key": KEY}
PROBE_INTERVAL = 0.05  # seconds
PATIENCE = 60.0  # seconds for an answer
MODEL = "latest_checkpoint.pt"  # the default model
STORY = [{"role": "user", "content": "Tell a long story."}]
STREAM = {"model": MODEL, "messages": STORY, "max_tokens": 1900, "ignore_eos": True, "stream": True}


def json_bytes(**fields: Any) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


class Stream:
    """A stream that is read as it comes, begun again where it ends."""

    def __init__(self, address: str) -> None:
        self.events = 0
        self._address = address
        self._closed = False
        self._begun = threading.Event()
        self._connection = http.client.HTTPConnection(address, timeout=PATIENCE)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        if not self._begun.wait(PATIENCE):
            raise RuntimeError("the stream did not begin")

    def _read(self) -> None:
        with suppress(OSError, http.client.HTTPException, AttributeError, ValueError):
            while not self._closed:
                self._connection.request("POST", "/v1/chat/completions", json_bytes(**STREAM), HEADERS)
                answer = self._connection.getresponse()
                assert answer.status == 200, answer.read()
                while line := answer.readline():
                    self.events += line.startswith(b"data: ")
                    self._begun.set()

    def close(self) -> None:
        self._closed = True
        with suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._connection.close()


def watch(address: str) -> tuple[float, float]:
    over = threading.Event()
    stream, slowest = Stream(address), 0.0
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    threading.Thread(target=_wait_for_a_line, args=[over], daemon=True).start()
    print("begun", flush=True)
    began, first = time.monotonic(), stream.events
    while not over.wait(PROBE_INTERVAL):
        asked = time.monotonic()
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        slowest = max(slowest, time.monotonic() - asked)
    pace = (stream.events - first) / (time.monotonic() - began)
    stream.close()
    connection.close()
    return slowest, pace


def _wait_for_a_line(over: threading.Event) -> None:
    sys.stdin.readline()
    over.set()


if __name__ == "__main__":
    print(json.dumps(watch(sys.argv[1])))
