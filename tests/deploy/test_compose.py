"""The compose files as they are, in a real engine: what they start, what a user sees, what happens when parts of it die."""

import json
import os
import re
import shlex
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.deploy.conftest import Stack
from tests.deploy.engine import KEY, ROOT, Engine

SERVICES = ("gateway", "triton")  # those that go on running
LONG = {"model": "latest_checkpoint.pt", "prompt": "The sea is", "max_tokens": 900, "temperature": 0, "ignore_eos": True}
HEADERS = {"Authorization": f"Bearer {KEY}"}


def documented_commands() -> list[str]:
    """Every curl command of the README and of the page about compose."""
    commands = []
    for document in ("README.md", "docs/deploy-compose.md"):
        for block in re.findall(r"^```\w*\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL):
            commands += [block] if block.startswith("curl ") else []
    return commands


@pytest.fixture(scope="module")
def whole_text(stack: Stack) -> str:
    """What LONG is answered when nothing dies."""
    answer = httpx.post(f"{stack.url}/v1/completions", json=LONG, headers=HEADERS, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == LONG["max_tokens"]
    return str(answer.json()["choices"][0]["text"])


def streamed(stack: Stack) -> Iterator[str]:
    """The pieces of LONG's text. AssertionError where the stream brings anything else, or does not come to its end."""
    body = LONG | {"stream": True}
    with httpx.stream("POST", f"{stack.url}/v1/completions", json=body, headers=HEADERS, timeout=90) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                return
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                assert "error" not in event, event
                yield event["choices"][0]["text"]
    raise AssertionError("the stream was cut")


def model_process(stack: Stack) -> int:
    """Triton's Python stub, as the machine sees it."""
    (container,) = stack.containers("triton")
    rows = [row.split() for row in stack.engine.docker("top", container, "-eo", "pid,comm").splitlines()[1:]]
    (stub,) = [int(pid) for pid, name in rows if name.startswith("triton_python")]
    return stub


def first_process(stack: Stack) -> int:
    """Of Triton's container: killed here, since `docker kill` would tell the engine that a person wanted it."""
    return int(stack.container("triton")["State"]["Pid"])


@pytest.mark.parametrize("command", documented_commands(), ids=lambda command: command.split()[1].strip("'\""))
def test_every_documented_command_answers(stack: Stack, command: str) -> None:
    command = command.replace("localhost:5002", f"localhost:{stack.port}").replace("a_default_key_for_testing", KEY)
    told = stack.engine.run(["bash", "-c", command.replace("curl ", "curl --noproxy '*' --silent --fail-with-body ", 1)])
    assert told.returncode == 0, told.stdout + told.stderr
    assert json.loads(told.stdout)


def test_only_the_gateway_has_a_published_port(stack: Stack) -> None:
    ports = {name: stack.container(name)["NetworkSettings"]["Ports"] for name in SERVICES}
    published = {name: {port for port, bound in of_service.items() if bound} for name, of_service in ports.items()}
    assert published == {"gateway": {"5002/tcp"}, "triton": set()}


def test_no_container_may_more_than_it_must(stack: Stack) -> None:
    for name in SERVICES:
        (container,) = stack.containers(name)
        status = stack.engine.docker("exec", container, "cat", "/proc/self/status")
        found = dict(re.findall(r"^(Uid|Cap\w+|NoNewPrivs):\t(\w+)", status, re.MULTILINE))
        assert found.pop("Uid") == "10001", name
        assert found.pop("NoNewPrivs") == "1", name
        assert len(found) == 5 and {int(capabilities, 16) for capabilities in found.values()} == {0}, (name, found)
        for path in ("/opt/tidegate", "/models" if name == "triton" else "/etc"):
            written = stack.engine.run(["docker", "exec", "--user=0", container, "touch", f"{path}/new"])
            assert "Read-only file system" in written.stderr, (name, path)


def test_the_export_reaches_no_network_and_ran_confined(stack: Stack) -> None:
    export = stack.container("export")
    assert export["State"]["ExitCode"] == 0
    assert export["HostConfig"]["NetworkMode"] == "none"
    assert export["HostConfig"]["ReadonlyRootfs"] and export["HostConfig"]["CapDrop"] == ["ALL"]
    assert export["Config"]["User"] == "10001:10001"


def test_triton_cannot_be_reached_from_outside(stack: Stack) -> None:
    """It has no way out either: its network is an internal one."""
    networks = stack.container("triton")["NetworkSettings"]["Networks"]
    assert [stack.engine.inspect(name)["Internal"] for name in networks] == [True]


@pytest.mark.parametrize("process", [first_process, model_process], ids=["container", "model process"])
def test_a_stream_goes_on_where_it_was_when_triton_dies(stack: Stack, whole_text: str, process: Callable[[Stack], int]) -> None:
    """Triton's container is started again by its restart policy; where only the model process died, run.py has ended it."""
    stack.wait_until(lambda: stack.container("triton")["State"]["Health"]["Status"] == "healthy")
    before = stack.container("triton")["RestartCount"]
    victim, text = process(stack), ""  # found beforehand: the whole text takes a third of a second
    for number, piece in enumerate(streamed(stack)):
        text += piece
        if number == 5:
            os.kill(victim, signal.SIGKILL)
            assert len(text) < len(whole_text) / 2
    assert text == whole_text
    assert stack.container("triton")["RestartCount"] == before + 1


def test_a_second_start_exports_and_restarts_nothing(stack: Stack) -> None:
    started = {name: stack.container(name)["State"]["StartedAt"] for name in SERVICES}
    stack.compose("up", "--wait", "--no-build")
    assert "checkpoint is up to date" in stack.compose("logs", "--no-log-prefix", "--tail=1", "export")
    assert {name: stack.container(name)["State"]["StartedAt"] for name in SERVICES} == started


def test_two_tritons_share_the_work_and_one_may_go(stack: Stack, whole_text: str) -> None:
    """The gateway asks for all addresses of the name, every few seconds."""
    stack.compose("up", "--wait", "--no-build", "--scale", "triton=2")
    one = stack.containers("triton")[0]
    gateway = stack.containers("gateway")[0]
    look_up = "import socket; print(len({a[4] for a in socket.getaddrinfo('triton', 8001, type=socket.SOCK_STREAM)}))"
    assert stack.engine.docker("exec", gateway, "python", "-c", look_up).strip() == "2"
    texts: list[str] = []
    readers = [threading.Thread(target=lambda: texts.append("".join(streamed(stack)))) for _ in range(4)]
    for reader in readers:
        reader.start()
    stack.engine.docker("stop", "--time=0", one)
    for reader in readers:
        reader.join(90)
    assert texts == [whole_text] * 4
    stack.compose("up", "--wait", "--no-build", "--scale", "triton=1")


def test_another_checkpoint_is_taken_over_without_a_restart(stack: Stack, whole_text: str) -> None:
    started = {name: stack.container(name)["State"]["StartedAt"] for name in SERVICES}
    stack.compose("up", "--wait", "--no-build", MODEL_CHECKPOINT="second")

    def version() -> str:
        return str(httpx.get(f"{stack.url}/health").json()["data"]["models"]["checkpoint"]["version"])

    stack.wait_until(lambda: version() == "2")
    text = "".join(streamed(stack))
    assert text != whole_text
    # Without MODEL_CHECKPOINT: the demonstration model must not replace it.
    stack.compose("up", "--wait", "--no-build", MODEL_CHECKPOINT="")
    assert "stays as it was exported" in stack.compose("logs", "--no-log-prefix", "--tail=1", "export")
    assert (version(), "".join(streamed(stack))) == ("2", text)
    assert {name: stack.container(name)["State"]["StartedAt"] for name in SERVICES} == started


def test_a_gateway_that_is_told_to_stop_finishes_its_streams(stack: Stack) -> None:
    text = streamed(stack)
    first = next(text)
    ended = threading.Thread(target=stack.compose, args=("stop", "gateway"))
    ended.start()
    assert first + "".join(text)
    ended.join(60)
    assert stack.container("gateway")["State"]["ExitCode"] == 0


def test_down_leaves_nothing(stack: Stack, engine: Engine) -> None:
    """The last test here: it ends what the others use."""
    stack.compose("down", "--volumes")
    project = "label=com.docker.compose.project=tidegate"
    for listed in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        assert engine.docker(*listed, "--quiet", f"--filter={project}") == "", shlex.join(listed)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", stack.port)) != 0
