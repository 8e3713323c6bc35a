"""Load by `wrk`, a client in C: beside a model that costs nothing, a client in Python would be most of what is measured."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.environments import RUN, PeerError
from bench.servers import KEY, Server

LONGEST = 600  # seconds, should nobody stop it
# The first texts of the connections have 1/n, 2/n, … n/n of all tokens, so that the later ones end evenly spread over time:
# each end then stands for as many tokens as a whole text has.
SCRIPT = """
local ffi = require("ffi")
ffi.cdef[[ typedef struct {{ long seconds, microseconds; }} moment; int gettimeofday(moment *, void *); ]]
local moment, asked = ffi.new("moment"), 0
local headers = {{ ["Content-Type"] = "application/json", ["X-API-Key"] = "{key}" }}

function request()
  asked = asked + 1
  local tokens = asked < {clients} and math.ceil({tokens} * asked / {clients}) or {tokens}
  return wrk.format("POST", "/v1/completions", headers, string.format([==[{body}]==], asked, tokens))
end

function response(status, _, body)
  ffi.C.gettimeofday(moment, nil)
  local at = tonumber(moment.seconds) + tonumber(moment.microseconds) / 1e6
  local tokens = body:match('"completion_tokens":%s*(%d+)') or 0
  io.write(string.format("TEXT %.6f %d %d\\n", at, status, tokens))
end
"""


@dataclass(frozen=True)
class Flow:
    """What came in a window. ``spent``: seconds that the caller's meter grew by in it."""

    tokens_per_second: float
    seconds: float
    spent: tuple[float, ...]

    @property
    def spent_per_token(self) -> tuple[float, ...]:
        return tuple(one / (self.tokens_per_second * self.seconds) for one in self.spent)


def program() -> str:
    """PeerError where it is not installed."""
    if found := shutil.which("wrk"):
        return found
    raise PeerError("the load comes from wrk, which is not on PATH (Debian: apt-get install wrk)")


class Wrk:
    """`wrk` with so many connections, from its start until `stop`."""

    def __init__(self, server: Server, clients: int, tokens: int) -> None:
        file = RUN / "wrk.lua"
        file.write_text(script(server, clients, tokens))
        command = [program(), "-t1", f"-c{clients}", f"-d{LONGEST}s", f"--timeout={LONGEST}s", "-s", str(file), server.address]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def stop(self) -> list[float]:
        """When the texts ended, in seconds since the epoch. PeerError where one was refused or was not whole."""
        self._process.send_signal(signal.SIGINT)  # it then still says what it has seen
        said, _ = self._process.communicate(timeout=30)
        texts = [line.split()[1:] for line in said.splitlines() if line.startswith("TEXT ")]
        if failed := [text for text in texts if text[1] != "200" or text[2] == "0"]:
            raise PeerError(f"{len(failed)} of {len(texts)} texts failed; the first with status {failed[0][1]}")
        return [float(text[0]) for text in texts]


def script(server: Server, clients: int, tokens: int) -> str:
    body = json.dumps(server.body("@", 0) | {"stream_options": {"include_usage": True}}).replace("%", "%%")
    body = body.replace('"prompt": "@"', '"prompt": "%d "').replace('"max_tokens": 0', '"max_tokens": %d')
    return SCRIPT.format(key=KEY, clients=clients, tokens=tokens, body=body)


def flow(
    server: Server, clients: int, tokens: int, meter: Callable[[], tuple[float, ...]], *, warm_up: float, seconds: float
) -> Flow:
    """Texts of ``tokens`` tokens, streamed, for so many clients. ``meter``: such as the CPU seconds of some processes."""
    load = Wrk(server, clients, tokens)
    time.sleep(warm_up)
    opening, before = time.time(), meter()
    time.sleep(seconds)
    closing, after = time.time(), meter()
    ends = sorted(end for end in load.stop() if opening <= end < closing)
    if len(ends) < 2:
        raise PeerError(f"fewer than two texts ended within {seconds:.0f} s")
    rate = tokens * (len(ends) - 1) / (ends[-1] - ends[0])
    return Flow(rate, closing - opening, tuple(now - then for then, now in zip(before, after, strict=True)))
