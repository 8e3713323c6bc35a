"""Settings come from the environment; a bad one stops the start with its name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.settings import DEFAULT_API_KEY, Settings, SettingsError


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    settings = Settings.from_environment({})
    assert settings.my_api_key == DEFAULT_API_KEY == "a_default_key_for_testing"
    assert (settings.triton_url, settings.model_name, settings.host, settings.port) == ("127.0.0.1:8001", None, "0.0.0.0", 5002)
    assert (settings.max_waiting, settings.prefill_chunk) == (256, 256)
    assert (settings.drain_delay, settings.grace_period) == (0, 2)
    assert (settings.api_keys_file, settings.cors_origins, settings.log_format) == (None, ("*",), "text")


def test_every_setting_is_read(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.touch()
    environment = {
        "MY_API_KEY": "密钥",
        "TRITON_URL": "triton:9001",
        "MODEL_NAME": "gpt2",
        "HOST": "127.0.0.1",
        "PORT": "8080",
        "MAX_WAITING": "1",
        "PREFILL_CHUNK": "64",
        "SPECULATION": "off",
        "RUN_AHEAD": "40",
        "RECOVERY_TIMEOUT": "5",
        "QUEUE_TIMEOUT": "9",
        "DRAIN_DELAY": "7",
        "GRACE_PERIOD": "0",
        "API_KEYS_FILE": str(file),
        "CORS_ORIGINS": "https://chat.example, http://localhost:3000",
        "LOG_FORMAT": "json",
        "ALLOW_DEFAULT_KEY": "off",
    }
    assert Settings.from_environment(environment) == Settings(
        my_api_key="密钥",
        triton_url="triton:9001",
        model_name="gpt2",
        host="127.0.0.1",
        port=8080,
        max_waiting=1,
        queue_timeout=9,
        prefill_chunk=64,
        speculation=False,
        run_ahead=40,
        recovery_timeout=5,
        drain_delay=7,
        grace_period=0,
        api_keys_file=file,
        cors_origins=("https://chat.example", "http://localhost:3000"),
        log_format="json",
        allow_default_key=False,
    )


def test_the_public_key_is_refused_where_it_is_not_allowed(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(DEFAULT_API_KEY)
    for environment in ({}, {"MY_API_KEY": DEFAULT_API_KEY}, {"MY_API_KEY_FILE": str(tmp_path / "key")}):
        with pytest.raises(SettingsError, match="everyone knows.* Set a key: MY_API_KEY=something-secret, "):
            Settings.from_environment(environment | {"ALLOW_DEFAULT_KEY": "off"})
        assert Settings.from_environment(environment | {"ALLOW_DEFAULT_KEY": "on"}).my_api_key == DEFAULT_API_KEY
    own: tuple[dict[str, str], ...] = ({"MY_API_KEY": "own"}, {"API_KEYS_FILE": str(tmp_path / "key")})
    for environment in own:
        assert Settings.from_environment(environment | {"ALLOW_DEFAULT_KEY": "off"}).my_api_key != DEFAULT_API_KEY
    with pytest.raises(SettingsError, match="^ALLOW_DEFAULT_KEY is 'yes'; it must be one of on, off"):
        Settings.from_environment({"ALLOW_DEFAULT_KEY": "yes"})


def test_an_empty_switch_does_not_turn_on_the_public_key() -> None:
    """As in `docker run -e ALLOW_DEFAULT_KEY=`, over the image's `off`."""
    for nothing in ("", " "):
        with pytest.raises(SettingsError, match="everyone knows, and ALLOW_DEFAULT_KEY is 'off'"):
            Settings.from_environment({"ALLOW_DEFAULT_KEY": nothing})


def test_a_gateway_with_the_public_key_logs_a_warning() -> None:
    """Before anything else: no Triton is there, and it ends."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MY_API_KEY")}
    own |= {"TRITON_URL": "127.0.0.1:9", "RECOVERY_TIMEOUT": "1"}
    for key, warnings in (({}, 1), ({"MY_API_KEY": "own"}, 0)):
        ended = subprocess.run([sys.executable, "-m", "gateway"], env=own | key, capture_output=True, text=True, timeout=60)
        assert ended.stderr.count("WARNING gateway The key is the public default: anyone") == warnings


def test_the_key_may_come_from_a_file(tmp_path: Path) -> None:
    for content in ("密钥", "密钥\n", "密钥\r\n"):
        (tmp_path / "key").write_bytes(content.encode())
        assert Settings.from_environment({"MY_API_KEY_FILE": str(tmp_path / "key")}).my_api_key == "密钥"


def test_the_key_comes_from_one_place() -> None:
    with pytest.raises(SettingsError, match="^MY_API_KEY and MY_API_KEY_FILE are both set;"):
        Settings.from_environment({"MY_API_KEY": "a", "MY_API_KEY_FILE": "b"})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"a\nsecret", "is not printable"),
        (b" secret", "is not printable or has spaces"),
        (b"secret\xff", "is not UTF-8"),
        (b"secret" * 1000, "has more than 4096 bytes"),
    ],
)
def test_a_file_that_holds_no_key_is_refused_and_not_shown(tmp_path: Path, content: bytes | None, reason: str) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=f"^MY_API_KEY_FILE .*{reason}") as refused:
        Settings.from_environment({"MY_API_KEY_FILE": str(file)})
    assert "secret" not in str(refused.value)


def test_beside_a_file_of_keys_there_is_no_default_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.touch()
    assert Settings.from_environment({"API_KEYS_FILE": str(file)}).my_api_key is None


def test_a_file_of_keys_that_there_is_not_is_named_with_the_command_that_makes_it() -> None:
    with pytest.raises(SettingsError, match="^API_KEYS_FILE is 'nothing.json'; .*keys create NAME --file nothing.json"):
        Settings.from_environment({"API_KEYS_FILE": "nothing.json"})


def test_cors_is_switched_off_by_a_word() -> None:
    assert Settings.from_environment({"CORS_ORIGINS": "none"}).cors_origins == ()
    assert Settings.from_environment({"CORS_ORIGINS": "*"}).cors_origins == ("*",)


@pytest.mark.parametrize("origin", ["chat.example", "https://chat.example/", "https://a b", "*,https://a", "none,https://a"])
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match="^CORS_ORIGINS has .*; it must be "):
        Settings.from_environment({"CORS_ORIGINS": origin})


def test_an_unknown_log_format_is_refused() -> None:
    with pytest.raises(SettingsError, match="^LOG_FORMAT is 'xml'; it must be one of text, json.$"):
        Settings.from_environment({"LOG_FORMAT": "xml"})


def test_speculation_is_on_or_off() -> None:
    assert Settings().speculation and Settings.from_environment({"SPECULATION": "on"}).speculation
    with pytest.raises(SettingsError, match="^SPECULATION is 'yes'; it must be one of on, off.$"):
        Settings.from_environment({"SPECULATION": "yes"})


def test_run_ahead_is_off_or_milliseconds() -> None:
    assert Settings().run_ahead == 25 and Settings.from_environment({"RUN_AHEAD": "off"}).run_ahead == 0
    for value in ("0", "1001", "on", "2.5"):
        with pytest.raises(SettingsError, match=f"^RUN_AHEAD is '{value}'; it must be off, or a whole number from 1 to 1000.$"):
            Settings.from_environment({"RUN_AHEAD": value})


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_environment({"PORT": "", "MODEL_NAME": " ", "TRITON_URL": ""}) == Settings()


@pytest.mark.parametrize("value", ["0", "65536", "-1", "5002.0", "http", "\uff11\uff12", "9" * 5000])
def test_a_bad_port_is_named_with_what_is_allowed(value: str) -> None:
    with pytest.raises(SettingsError, match="^PORT is .* it must be a whole number from 1 to 65535.$"):
        Settings.from_environment({"PORT": value})


@pytest.mark.parametrize("variable", ["MAX_WAITING", "PREFILL_CHUNK"])
def test_a_bad_number_is_named(variable: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable} is '0'"):
        Settings.from_environment({variable: "0"})


@pytest.mark.parametrize("key", ["", " ", "a\n", " a", "a\x00b"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError, match="^MY_API_KEY is (empty|not printable or has spaces around it);"):
        Settings.from_environment({"MY_API_KEY": key})
