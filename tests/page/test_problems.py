"""What the page says and does when something is wrong: sentences, waiting, going on."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway import key_commands
from testing.gateway import Gateway
from testing.triton import Triton
from tests.conftest import CHARACTERS, TINY, gateway_process
from tests.gateway.http_client import client, load, until
from tests.page.visitor import Visitor

Visit = Callable[..., Visitor]
LONG = {"max_tokens": 500, "ignore_eos": True}


def new_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    key_commands.main(["create", *arguments])
    return capsys.readouterr().out.strip()


@pytest.fixture(scope="module")
def own_triton(model_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    with Triton(model_repository, tmp_path_factory.mktemp("triton"), [TINY], slots=2) as server:
        yield server


def test_a_wrong_key_is_told_where_to_mend_it_and_the_message_goes_out_again(visit: Visit, api_key: str) -> None:
    visitor = visit()
    visitor.mode("chat")
    visitor.set(max_tokens=3)
    visitor.page.fill("#key", "wrong")
    visitor.page.locator("#key").blur()
    visitor.notice().get_by_text("The server refused the API key.").wait_for()
    visitor.begin("Hello")
    visitor.finished()
    assert "refused the API key" in visitor.notice().inner_text() and visitor.notice().get_attribute("role") == "alert"
    assert visitor.page.evaluate("document.activeElement.id") == "key"
    visitor.page.fill("#key", api_key)
    visitor.page.locator("#key").blur()
    visitor.notice().wait_for(state="hidden")
    visitor.click("Try again")
    visitor.answered()


@pytest.mark.slow
def test_a_model_that_the_key_may_not_use(
    visit: Visit, own_triton: Triton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.json"
    key = new_key(monkeypatch, capsys, "alice", "--file", str(file), "--model", "another")
    with gateway_process(
        own_triton.grpc_address, tmp_path / "log", MODEL_NAME=TINY, API_KEYS_FILE=str(file), RUN_AHEAD="off"
    ) as url:
        visitor = visit(url, connected=False)
        visitor.notice().get_by_text("The server refused the API key.").wait_for()
        visitor.page.fill("#key", key)
        visitor.page.locator("#key").blur()
        visitor.notice().wait_for(state="hidden")
        visitor.page.evaluate(f"document.querySelector('#model').append(new Option('{TINY}'))")
        visitor.page.select_option("#model", TINY)
        visitor.begin("Hello")
        visitor.notice().get_by_text(f"This key may not use the model {TINY}.").wait_for()


@pytest.mark.slow
def test_a_busy_server_is_asked_again_after_the_time_it_names(
    visit: Visit, own_triton: Triton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.json"
    key = new_key(monkeypatch, capsys, "alice", "--file", str(file), "--concurrent-requests", "1")
    asked = {"model": TINY, "prompt": "The king", "max_tokens": 1000, "ignore_eos": True, "stream": True}
    with gateway_process(
        own_triton.grpc_address, tmp_path / "log", MODEL_NAME=TINY, API_KEYS_FILE=str(file), RUN_AHEAD="off"
    ) as url:
        visitor = visit(url, connected=False)
        visitor.page.fill("#key", key)
        visitor.page.locator("#key").blur()
        visitor.page.locator("#model option").first.wait_for(state="attached")
        visitor.set(max_tokens=3)
        with client(url, key) as other, ExitStack() as busy:
            busy.enter_context(other.stream("POST", "/v1/completions", json=asked))
            visitor.begin("Hello")
            visitor.notice().get_by_text("sent too many requests").wait_for()
            assert visitor.notice().get_attribute("role") == "status"
            visitor.notice().get_by_text("1 s").wait_for()
        visitor.finished()
        assert visitor.notice().is_hidden() and visitor.answers() != [""]
        assert visitor.sends() >= 2


def test_a_restart_of_triton_in_mid_answer_is_told_and_the_text_goes_on_whole(
    visit: Visit, own_triton: Triton, tmp_path: Path
) -> None:
    with gateway_process(own_triton.grpc_address, tmp_path / "log", MODEL_NAME=TINY) as url:
        visitor = visit(url)
        visitor.set(**LONG, temperature=0)
        visitor.send("The king")
        visitor.begin("The king")
        visitor.writing()
        own_triton.kill()
        killed = time.monotonic()
        visitor.notice().get_by_text("is restarting").wait_for()
        assert time.monotonic() - killed < 3
        assert visitor.notice().get_attribute("role") == "status"
        own_triton.start()
        own_triton.wait_ready(60)
        visitor.finished()
        undisturbed, disturbed = visitor.answers()
        assert len(undisturbed) > 100 and disturbed == undisturbed
        assert visitor.notice().is_hidden() and visitor.sends() == 2  # the gateway went on by itself


@pytest.mark.slow
def test_triton_that_stays_away_ends_the_stream_and_the_page_waits_and_goes_on(
    visit: Visit, own_triton: Triton, tmp_path: Path
) -> None:
    with gateway_process(
        own_triton.grpc_address, tmp_path / "log", MODEL_NAME=TINY, RECOVERY_TIMEOUT="1", RUN_AHEAD="off"
    ) as url:
        visitor = visit(url)
        visitor.set(**LONG)
        visitor.begin("The king")
        visitor.writing()
        own_triton.kill()
        visitor.notice().get_by_text("The page waits and then continues.").wait_for()
        [before] = visitor.answers()
        own_triton.start()
        own_triton.wait_ready(60)
        visitor.writing(beyond=before)
        visitor.finished()
        [answer] = visitor.answers()
        assert answer.startswith(before) and visitor.sends() == 2 and visitor.notice().is_hidden()


@pytest.mark.slow
def test_a_gateway_that_is_gone_is_waited_for_and_the_answer_goes_on_where_it_ended(
    visit: Visit, own_triton: Triton, tmp_path: Path
) -> None:
    gateway = Gateway(own_triton.grpc_address, tmp_path / "log", MODEL_NAME=TINY, RUN_AHEAD="off")
    with gateway:
        visitor = visit(gateway.url)
        visitor.set(**LONG)
        visitor.begin("The king")
        visitor.writing()
        gateway.send(signal.SIGKILL)
    visitor.notice().get_by_text("The connection was lost.").wait_for()
    [before] = visitor.answers()
    with gateway:  # at the same address
        visitor.writing(beyond=before)
        visitor.finished()
        assert visitor.answers()[0].startswith(before)
    visitor.begin("And then")
    visitor.notice().get_by_text("The server cannot be reached.").wait_for()
    visitor.click("Stop")  # waiting can be stopped too
    visitor.finished()
    assert visitor.notice().is_hidden()


@pytest.mark.slow
def test_the_page_that_opens_before_the_server_answers_connects_by_itself(
    visit: Visit, own_triton: Triton, tmp_path: Path
) -> None:
    with gateway_process(own_triton.grpc_address, tmp_path / "log", MODEL_NAME=TINY) as url:
        visitor = visit(url)
        visitor.page.route("**/v1/models", lambda route: route.abort())
        visitor.arrive(connected=False)
        visitor.notice().get_by_text("The server cannot be reached.").wait_for()
        visitor.page.unroute("**/v1/models")
        visitor.page.locator("#model option").first.wait_for(state="attached")
        visitor.notice().wait_for(state="hidden")


@pytest.mark.slow
def test_a_queue_is_told(visit: Visit, own_triton: Triton, tmp_path: Path, api_key: str) -> None:
    asked = {"model": TINY, "prompt": "The king", "max_tokens": 1000, "ignore_eos": True, "stream": True, "n": 8}
    with (
        gateway_process(own_triton.grpc_address, tmp_path / "log", MODEL_NAME=TINY) as url,
        client(url, api_key) as other,
        ExitStack() as busy,
    ):
        visitor = visit(url)
        visitor.set(max_tokens=3)
        busy.enter_context(other.stream("POST", "/v1/completions", json=asked))
        assert any(load(url)[1] >= 6 for _ in until(10))
        visitor.begin("Hello")
        visitor.notice().get_by_text("other requests come first").wait_for()
        busy.close()
        visitor.finished()
        assert visitor.notice().is_hidden() and visitor.answers() != [""]


def test_a_conversation_beyond_the_context_is_told_in_a_sentence(visit: Visit, character_gateway_url: str) -> None:
    visitor = visit(character_gateway_url)
    assert visitor.page.input_value("#model") == CHARACTERS
    visitor.send("the " * 60)
    assert "Too long for this model: 240 of 128 tokens." in visitor.notice().inner_text()
    assert visitor.notice().get_by_role("button", name="Try again").is_visible()


def test_a_refused_parameter_is_told_in_the_servers_sentence_at_its_control(visit: Visit) -> None:
    visitor = visit()
    visitor.set(max_tokens=5, min_tokens=9)
    visitor.begin("Hello")
    visitor.notice().get_by_text("min_tokens is 9; it must be at most max_tokens, 5.").wait_for()
    assert visitor.page.evaluate("document.activeElement.id") == "parameter-min_tokens"
    visitor.set(min_tokens=1)
    visitor.click("Try again")
    visitor.answered()
    assert visitor.notice().is_hidden()


@pytest.mark.slow
def test_a_stop_while_the_server_is_waited_for_ends_the_waiting(visit: Visit) -> None:
    visitor = visit()
    visitor.page.route("**/v1/completions", lambda route: route.abort())
    visitor.begin("Hello")
    visitor.notice().get_by_text("The server cannot be reached.").wait_for()
    sends = visitor.sends()
    visitor.click("Stop")
    visitor.finished()
    threading.Event().wait(2.5)  # longer than the page would wait
    assert visitor.sends() == sends
