"""Settings come from the environment; a bad one stops the start with its name."""

from pathlib import Path

import pytest

from gateway.settings import DEFAULT_API_KEY, Settings, SettingsError


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    settings = Settings.from_environment({})
    assert settings.my_api_key == DEFAULT_API_KEY == "a_default_key_for_testing"
    assert (settings.triton_url, settings.model_name, settings.host, settings.port) == ("127.0.0.1:8001", None, "0.0.0.0", 5002)
    assert (settings.max_waiting, settings.prefill_chunk) == (256, 256)
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
        "RECOVERY_TIMEOUT": "5",
        "API_KEYS_FILE": str(file),
        "CORS_ORIGINS": "https://chat.example, http://localhost:3000",
        "LOG_FORMAT": "json",
    }
    origins = ("https://chat.example", "http://localhost:3000")
    settings = Settings.from_environment(environment)
    assert settings == Settings("密钥", "triton:9001", "gpt2", "127.0.0.1", 8080, 1, 64, 5, file, origins, "json")


def test_beside_a_file_of_keys_there_is_no_default_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.touch()
    assert Settings.from_environment({"API_KEYS_FILE": str(file)}).my_api_key is None


def test_a_file_of_keys_that_there_is_not_is_named_with_the_command_that_makes_it() -> None:
    with pytest.raises(SettingsError, match="^API_KEYS_FILE is 'nothing.json'; .*gateway.keys create NAME --file nothing.json"):
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
