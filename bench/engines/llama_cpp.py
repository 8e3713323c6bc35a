"""llama.cpp: speeds by its own `llama-batched-bench`, texts by its own server: `… BIN_DIRECTORY MODEL.gguf THREADS`.

llama-batched-bench runs as a process for each request; loading the model is not in the times that it tells.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.engines.protocol import serve


class Engine:
    def __init__(self, binaries: Path, model: str, threads: int) -> None:
        self._binaries, self._model, self._threads = binaries, model, threads
        self._bench(1, 16, 2)  # says at once where it cannot run

    def _bench(self, streams: int, length: int, tokens: int) -> dict[str, Any]:
        command = [str(self._binaries / "llama-batched-bench"), "--model", self._model, "--output-format", "jsonl"]
        command += ["-npp", str(length), "-ntg", str(tokens), "-npl", str(streams), "-c", str(streams * (length + tokens))]
        command += ["-t", str(self._threads), "-tb", str(self._threads), "-b", "2048", "-ub", "512"]
        done = subprocess.run(command, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError(f"llama-batched-bench ended with {done.returncode}: {done.stderr.strip()[-300:]}")

    def decode(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        timings = self._bench(len(prompts), len(prompts[0]), tokens - 1)
        return {"prefill_seconds": timings["t_pp"], "seconds": timings["t_tg"], "texts": None}

    def prefill(self, prompt: list[int]) -> Mapping[str, Any]:
        return {"seconds": self._bench(1, len(prompt), 1)["t_pp"]}

    def texts(self, prompts: list[list[int]], tokens: int) -> Mapping[str, Any]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        context = len(prompts) * (len(prompts[0]) + tokens + 8)
        command = [str(self._binaries / "llama-server"), "--model", self._model, "--port", str(port), "--no-ui"]
        command += ["-np", str(len(prompts)), "-c", str(context), "-t", str(self._threads)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_healthy(server, port)
            with ThreadPoolExecutor(len(prompts)) as pool:
                return {"texts": list(pool.map(lambda prompt: complete(port, prompt, tokens), prompts))}
        finally:
            server.terminate()
            server.wait()


def wait_healthy(server: "subprocess.Popen[bytes]", port: int) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            return
        except OSError:
            time.sleep(0.1)
        if server.poll() is not None:
            raise RuntimeError(f"llama-server ended with status {server.returncode}")
    raise RuntimeError("llama-server did not become healthy")


def complete(port: int, prompt: list[int], tokens: int) -> list[int]:
    body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "return_tokens": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        return list(json.load(answer)["tokens"])


if __name__ == "__main__":
    engine = Engine(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    given = f"llama-batched-bench, {sys.argv[3]} threads, {Path(sys.argv[2]).name}"
    serve(given, decode=engine.decode, prefill=engine.prefill, texts=engine.texts)
