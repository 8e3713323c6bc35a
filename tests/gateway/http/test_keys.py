"""Keys: what the command writes, what the gateway accepts, and that a change of the file needs no restart."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import httpx
import openai
import pytest

from gateway import key_commands, keys
from gateway.keys import ApiKey, KeyFileError
from serve.triton_server import TritonServer
from tests.conftest import CHARACTERS, DEMO, ROOT, TINY, gateway_process
from tests.gateway.http_client import CHAT, until

UNAUTHORIZED = "Unauthorized. Invalid or missing API Key."
READ_AGAIN = 3.0  # seconds within which a gateway must have seen a change


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    key_commands.main([str(argument) for argument in arguments])


def test_a_new_key_is_printed_once_and_only_its_hash_is_kept(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(monkeypatch, "create", "alice", "--file", file, "--requests-per-minute", "60", "--model", "a", "--model", "b")
    key = capsys.readouterr().out.strip()
    assert key.startswith("tg-") and len(key) > 40
    assert key not in file.read_text()
    assert keys.read_keys(file) == [
        ApiKey(name="alice", sha256=sha256(key.encode()).hexdigest(), requests_per_minute=60, models=("a", "b"))
    ]
    assert file.stat().st_mode & 0o777 == 0o600
    command(monkeypatch, "list", "--file", file)
    listed = capsys.readouterr().out
    assert "alice" in listed and "60" in listed and "a, b" in listed
    assert key not in listed and sha256(key.encode()).hexdigest() not in listed


def test_a_key_expires_after_days_or_at_a_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS_FILE", str(file))
    command(monkeypatch, "create", "days", "--expires", "30d")
    command(monkeypatch, "create", "moment", "--expires", "2099-01-01T00:00:00+02:00")
    days, moment = keys.read_keys(file)
    assert days.expires is not None
    assert abs(days.expires - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=1)
    assert moment.expires == datetime(2098, 12, 31, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "a b"], "a name has 1 to 64 letters"),
        (["create", "default"], "there is a key named 'default' already"),
        (["create", "alice"], "there is a key named 'alice' already"),
        (["create", "new", "--expires", "2020-01-01T00:00:00Z"], "is in the past"),
        (["create", "new", "--expires", "2099-01-01T00:00:00"], "has no time zone"),
        (["create", "new", "--expires", "soon"], "must be as 30d, 12h or"),
        (["create", "new", "--tokens-per-minute", "0"], "a whole number of at least 1"),
        (["revoke", "bob"], "there is no key named 'bob'"),
    ],
)
def test_a_command_that_cannot_be_done_says_why_and_changes_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    keys.create(file, "alice")
    before = file.read_bytes()
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, *arguments, "--file", file)
    assert ended.value.code != 0
    assert said in f"{ended.value.code}{capsys.readouterr().err}"
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_commands_at_the_same_time_lose_nothing(file: Path) -> None:
    run = [sys.executable, "-m", "gateway.keys", "create", "--file", str(file)]
    commands = [subprocess.Popen([*run, name], cwd=ROOT, stdout=subprocess.PIPE) for name in ("one", "two")]
    threads = [threading.Thread(target=keys.create, args=(file, f"thread-{number}")) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(30) for process in commands] == [0, 0]
    assert {key.name for key in keys.read_keys(file)} == {"one", "two"} | {f"thread-{number}" for number in range(20)}


SECRET = "tg-" + "s" * 43
GOOD = {"name": "alice", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "the document: Invalid JSON"),
        ("[]", "the document"),
        ('{"keys": [{"name": "alice"}]}', "keys.0.sha256: Field required"),
        (json.dumps({"keys": [GOOD | {"sha256": SECRET}]}), "keys.0.sha256: String should match pattern"),
        (json.dumps({"keys": [GOOD | {SECRET: 1}]}), "keys.0: Extra inputs are not permitted"),
        (json.dumps({"keys": [GOOD | {"expires": "2027-01-01T00:00:00"}]}), "keys.0.expires: Input should have timezone"),
        (json.dumps({"keys": [GOOD | {"requests_per_minute": 0}]}), "keys.0.requests_per_minute: Input should be greater"),
        (json.dumps({"keys": [GOOD | {"tokens_per_minute": "5"}]}), "keys.0.tokens_per_minute: Input should be a valid int"),
        (json.dumps({"keys": [GOOD, GOOD | {"sha256": "1" * 64}]}), "keys: Value error, the name 'alice' is taken twice"),
        (json.dumps({"keys": [GOOD, GOOD | {"name": "bob"}]}), "keys: Value error, two keys have the same sha256"),
        (json.dumps({"keys": [GOOD | {"name": "default"}]}), "the name 'default' is taken twice"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_by_its_field_and_shows_no_secret(file: Path, content: str, said: str) -> None:
    file.write_text(content)
    with pytest.raises(KeyFileError) as refused:
        keys.read_keys(file)
    assert str(refused.value).startswith(f"{file}: {said}") or said in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("content", [None, '{"keys": 1}'])
def test_a_bad_file_stops_the_start_with_one_sentence(file: Path, content: str | None) -> None:
    if content is not None:
        file.write_text(content)
    command = [sys.executable, "-m", "gateway"]
    ended = subprocess.run(command, cwd=ROOT, env={"API_KEYS_FILE": str(file)}, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith("gateway: API_KEYS_FILE") and str(file) in ended.stderr and ended.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def keyed(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Path]]:
    """A gateway with a file of keys: its address, the file, its log."""
    directory = tmp_path_factory.mktemp("keyed")
    file, log = directory / "keys.json", directory / "log"
    keys.create(file, "first")
    with gateway_process(triton.grpc_address, log, MODEL_NAME=TINY, API_KEYS_FILE=str(file)) as url:
        yield url, file, log


def status(url: str, key: str) -> int:
    return httpx.get(f"{url}/v1/models", headers={"X-API-Key": key}, timeout=20).status_code


def wait_status(url: str, key: str, wanted: int) -> None:
    for _ in until(READ_AGAIN):
        if status(url, key) == wanted:
            return
    raise AssertionError(f"still not {wanted} after {READ_AGAIN} s")


def test_beside_a_file_the_public_development_key_is_refused(keyed: tuple[str, Path, Path], api_key: str) -> None:
    url, _, _ = keyed
    response = httpx.get(f"{url}/v1/models", headers={"X-API-Key": api_key})
    assert response.status_code == 401
    assert response.json()["error"]["message"] == UNAUTHORIZED


def test_keys_are_added_and_revoked_without_a_restart(keyed: tuple[str, Path, Path]) -> None:
    url, file, _ = keyed
    added = [keys.create(file, f"added-{number}") for number in range(50)]
    for key in (added[0], added[-1]):
        wait_status(url, key, 200)
    keys.revoke(file, "added-0")
    wait_status(url, added[0], 401)
    assert status(url, added[1]) == 200
    bearer = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {added[1]}"})
    assert bearer.status_code == 200


@pytest.mark.slow
def test_a_broken_or_missing_file_keeps_the_keys_and_is_logged_once(keyed: tuple[str, Path, Path]) -> None:
    url, file, log = keyed
    key = keys.create(file, "stays")
    wait_status(url, key, 200)
    good = file.read_bytes()
    for break_it, problem in (
        (lambda: file.write_text('{"keys": 5}'), "keys: Input should be"),
        (file.unlink, "cannot be read"),
    ):
        break_it()
        for _ in until(READ_AGAIN):
            assert status(url, key) == 200
        told = [line for line in log.read_text().splitlines() if problem in line]
        assert len(told) == 1 and "ERROR" in told[0] and str(file) in told[0]
    file.write_bytes(good)
    new = keys.create(file, "after the repair".replace(" ", "-"))
    wait_status(url, new, 200)


def test_an_expired_key_is_refused_and_told_so(keyed: tuple[str, Path, Path]) -> None:
    url, file, _ = keyed
    expired = keys.create(file, "expired", expires=datetime.now(UTC) - timedelta(seconds=1))
    good = keys.create(file, "not-expired", expires=datetime.now(UTC) + timedelta(hours=1))
    wait_status(url, good, 200)
    response = httpx.get(f"{url}/v1/models", headers={"X-API-Key": expired})
    assert response.status_code == 401 and response.headers["WWW-Authenticate"] == "Bearer"
    assert response.json()["error"] == {
        "message": "Unauthorized. The API Key has expired.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }
    both = httpx.get(f"{url}/v1/models", headers={"X-API-Key": expired, "Authorization": f"Bearer {good}"})
    assert both.status_code == 200


def test_a_key_uses_the_models_it_is_allowed_and_no_other(keyed: tuple[str, Path, Path]) -> None:
    url, file, _ = keyed
    key = keys.create(file, "characters-only", models=(CHARACTERS,))
    wait_status(url, key, 200)
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [CHARACTERS]
        messages = CHAT["messages"]
        assert client.chat.completions.create(model=CHARACTERS, messages=messages, max_tokens=2).choices
        for name in (TINY, DEMO, "latest_checkpoint.pt"):
            with pytest.raises(openai.PermissionDeniedError) as refused:
                client.chat.completions.create(model=name, messages=messages)
            assert refused.value.code == "model_not_allowed" and refused.value.param == "model"
    generate = httpx.post(f"{url}/generate", headers={"X-API-Key": key}, json={"prompt": "Hello"})
    assert (generate.status_code, generate.json()["error"]["type"]) == (403, "auth_error")


def test_my_api_key_is_accepted_beside_the_file(triton: TritonServer, tmp_path: Path, file: Path) -> None:
    key = keys.create(file, "alice")
    with gateway_process(
        triton.grpc_address, tmp_path / "log", MODEL_NAME=TINY, API_KEYS_FILE=str(file), MY_API_KEY="my own"
    ) as url:
        assert [status(url, given) for given in (key, "my own", "my", "")] == [200, 200, 401, 401]
