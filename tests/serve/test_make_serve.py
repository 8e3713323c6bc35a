"""`make serve` as somebody at a terminal meets it, with the real Triton and the demonstration model."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable

import pytest

from serve.processes import is_alive
from tests.serve.conftest import ROOT, MakeServe

Start = Callable[..., MakeServe]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever the environment says


def answers(serve: MakeServe) -> bool:
    try:
        with DIRECT.open(f"http://127.0.0.1:{serve.port}/health", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def wait_until_answers(serve: MakeServe, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not answers(serve):
        assert time.monotonic() < deadline, serve.output
        time.sleep(0.1)


def test_the_last_line_is_a_curl_command_that_works_when_pasted(running: MakeServe) -> None:
    last = next(line for line in running.output.splitlines() if line.startswith("  try "))  # before any test disturbed it
    command = last.removeprefix("  try ")
    answer = json.loads(subprocess.run(command, shell=True, capture_output=True, timeout=60, check=True).stdout)
    assert answer["status"] == "success"
    assert len(answer["data"]["generated_text"]) > len(answer["data"]["prompt"])
    assert f"  page      http://localhost:{running.port}/ (" in running.output
    assert re.search(r"\n  memory    0\.\d GB, 2 slots of 2,048 tokens included\n", running.output), running.output
    assert f"  log       .run/{running.port}/triton.log" in running.output
    assert "uvicorn" not in running.output and "\033" not in running.output  # one ready message, without colours in a pipe
    assert "it's a secret" in running.output


@pytest.mark.slow
def test_a_second_start_installs_and_exports_nothing(running: MakeServe, make_serve: Start) -> None:
    second = make_serve(SLOTS="2")
    second.wait_for("  try ", 60)
    assert "is up to date" in second.output
    assert "Installing" not in second.output
    assert "Writing" not in second.output


@pytest.mark.slow
def test_the_port_of_a_running_server_is_said_to_be_that_servers(running: MakeServe, make_serve: Start) -> None:
    second = make_serve(PORT=str(running.port))
    assert second.wait_ended(10) != 0
    assert (
        f"another server with PORT={running.port} is starting or running here (process {running.supervisor})" in second.output
    )


@pytest.mark.slow
def test_a_triton_that_runs_already_is_used(running: MakeServe, make_serve: Start) -> None:
    command = running.processes()[running.pid_of("bin/tritonserver")]
    grpc_port = command.split("--grpc-port=")[1].split()[0]
    other = make_serve(TRITON_URL=f"127.0.0.1:{grpc_port}")
    other.wait_for("  try ", 30)
    assert not [command for command in other.processes().values() if "tritonserver" in command]
    assert answers(other)


@pytest.mark.parametrize("victim", ["bin/tritonserver", "triton_python_backend_stub"])
def test_a_killed_triton_or_stub_is_started_again(running: MakeServe, victim: str) -> None:
    os.kill(running.pid_of(victim), signal.SIGKILL)
    running.wait_for("Triton is ready again", 30)
    wait_until_answers(running, 10)


@pytest.mark.slow
def test_a_model_process_that_hangs_is_ended_and_started_again(running: MakeServe) -> None:
    stub = running.pid_of("triton_python_backend_stub")
    os.kill(stub, signal.SIGSTOP)
    running.wait_for("Triton does not answer; starting Triton again", 30)
    running.wait_for("Triton is ready again", 30)
    wait_until_answers(running, 10)
    assert not is_alive(stub)


@pytest.mark.slow
def test_a_killed_guard_of_triton_leaves_no_orphan(running: MakeServe) -> None:
    processes = running.processes().items()
    (guard,) = [pid for pid, command in processes if "process_guard.py" in command and "tritonserver" in command]
    stub = running.pid_of("triton_python_backend_stub")
    os.kill(guard, signal.SIGKILL)
    running.wait_for("Triton is ready again", 30)
    assert not is_alive(stub)


@pytest.mark.slow
def test_a_proxy_in_the_environment_is_not_asked_for_this_machine(make_serve: Start) -> None:
    proxy = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}  # nothing listens there
    serve = make_serve(SLOTS="2", **proxy)
    command = serve.wait_for("  try ").removeprefix("  try ")
    answer = subprocess.run(command, shell=True, env=os.environ | proxy, capture_output=True, timeout=60, check=True).stdout
    assert json.loads(answer)["status"] == "success"


def test_ctrl_c_ends_everything_within_ten_seconds_and_leaves_nothing(ready: MakeServe) -> None:
    assert len(ready.processes()) >= 6  # make, the supervisor, two guards, Triton, its stub, the gateway
    assert ready.shared_memory() != []
    ready.press_ctrl_c()
    ready.wait_ended(10)
    assert ready.left_after(0) == ({}, [])
    assert "Traceback" not in ready.output


@pytest.mark.slow
def test_a_killed_supervisor_leaves_nothing(ready: MakeServe) -> None:
    os.kill(ready.supervisor, signal.SIGKILL)
    assert ready.left_after(10) == ({}, [])


@pytest.mark.slow
def test_a_second_start_with_the_same_port_disturbs_nothing(make_serve: Start) -> None:
    first = make_serve(SLOTS="2")
    first.wait_for("WARNING")  # it is starting: its port is not open yet
    second = make_serve(PORT=str(first.port), SLOTS="2")
    assert second.wait_ended(60) != 0
    assert f"another server with PORT={first.port} is starting or running here (process " in second.output
    first.wait_for("  try ")


@pytest.mark.slow
def test_ctrl_c_in_the_first_moments_is_quiet() -> None:
    """SIGINT arrives when the first of the larger modules is imported."""
    script = """
import os, runpy, signal, sys
class Interrupter:
    def find_spec(self, name, *_):
        if name == "gateway.settings":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupter())
sys.argv = ["tidegate", "serve"]
runpy.run_module("tidegate", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("\nTidegate has stopped.\n", "")


@pytest.mark.slow
def test_triton_is_not_started_again_without_end(ready: MakeServe) -> None:
    for _ in range(5):
        os.kill(ready.pid_of("bin/tritonserver"), signal.SIGKILL)
        ready.wait_for("Triton is ready again", 30)
    os.kill(ready.pid_of("bin/tritonserver"), signal.SIGKILL)
    assert ready.wait_ended(20) != 0
    assert "Triton failed 6 times within 120 seconds" in ready.output
    assert ready.left_after(0) == ({}, [])


@pytest.mark.slow
def test_a_dead_gateway_ends_everything_with_a_failure(ready: MakeServe) -> None:
    os.kill(ready.pid_of("-m gateway"), signal.SIGKILL)
    assert ready.wait_ended(10) != 0
    assert "the gateway ended with status 137" in ready.output
    assert ready.left_after(0) == ({}, [])


def test_too_many_slots_are_refused_with_the_number_that_fits(make_serve: Start) -> None:
    serve = make_serve(SLOTS="1000000")
    assert serve.wait_ended(120) != 0
    assert "tidegate: The model was refused:" in serve.output
    assert "1000000 slots take" in serve.output
    assert "ask for at most" in serve.output
    assert "Traceback" not in serve.output


def test_a_taken_port_is_said_at_once_with_a_free_one(make_serve: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        serve = make_serve(PORT=str(taken.getsockname()[1]))
        assert serve.wait_ended(10) != 0
    assert f"port {serve.port} is taken by another program; choose a free one: PORT=" in serve.output


def test_a_bad_setting_is_refused_at_once_by_name(make_serve: Start) -> None:
    serve = make_serve(PRECISION="int7")
    assert serve.wait_ended(10) != 0
    assert "tidegate: PRECISION is 'int7'; it must be one of auto, fp32, int8, int8-row, int4, fp16." in serve.output


@pytest.mark.slow
def test_the_public_key_is_warned_of(make_serve: Start) -> None:
    serve = make_serve(PORT="5999999")
    serve.wait_ended(10)
    assert "WARNING" not in serve.output  # a start that is refused has nothing to warn of
    serve = make_serve(SLOTS="1000000")
    serve.wait_for("WARNING: MY_API_KEY is not set.")
