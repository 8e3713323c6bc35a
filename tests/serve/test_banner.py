"""What a start prints: addresses, what is served, a key and a command that can be used."""

from pathlib import Path

import pytest

from gateway.settings import Settings
from serve.banner import announce, warn
from serve.model_memory import model_memory

LOADED = (
    'I1128 21:39:15.140418 1947 model.py:131] "tide: 32 slots of 2048 tokens on cpu, 94740480 bytes each, growing"\n'
    'I1128 21:39:16.140418 1947 model.py:131] "tiny: 4 slots of 128 tokens on cpu, 1000 bytes each, reserved"\n'
)


def test_the_banner_names_the_key_to_send(capsys: pytest.CaptureFixture[str]) -> None:
    announce(Settings(my_api_key="it's mine"))
    said = capsys.readouterr().out
    assert "  key       it's mine\n" in said and "X-API-Key: it" in said


def test_the_banner_of_a_file_of_keys_says_where_the_keys_are(capsys: pytest.CaptureFixture[str]) -> None:
    announce(Settings(my_api_key=None, api_keys_file=Path("keys.json")))
    said = capsys.readouterr().out
    assert "None" not in said
    assert "  key       one of those in keys.json; `tidegate keys create NAME --file keys.json` makes another\n" in said
    assert "-H 'X-API-Key: YOUR-KEY'" in said


def test_addresses_are_written_as_people_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    everywhere = " (and at every other address of this machine)"
    for host, page in {
        "0.0.0.0": f"http://localhost:5002/{everywhere}",
        "127.0.0.1": "http://localhost:5002/",
        "::": f"http://[::1]:5002/{everywhere}",
        "10.1.2.3": "http://10.1.2.3:5002/",
    }.items():
        announce(Settings(host=host), "tide", ["other", "tide"])
        said = capsys.readouterr().out
        assert f"  page      {page}\n" in said and "  model     tide; also served: other\n" in said


def test_memory_is_what_processes_take_and_what_slots_may_grow_to() -> None:
    assert model_memory("another", LOADED, []) is None
    assert str(model_memory("tide", LOADED, [])) == (
        "0.0 GB now, up to 3.0 GB with 32 slots of 2,048 tokens all full; SLOTS=4 for less"
    )
    reserved = model_memory("tiny", LOADED.splitlines()[1], [1])
    assert reserved is not None and reserved.resident > 0 and str(reserved).endswith(" GB, 4 slots of 128 tokens included")


def test_warnings_are_coloured_on_a_terminal_with_colours_only_and_never_with_no_color(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    warn("WARNING: a")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    warn("WARNING: b")
    monkeypatch.setenv("NO_COLOR", "1")
    warn("WARNING: c")
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    warn("WARNING: d")
    assert capsys.readouterr().out == "WARNING: a\n\033[33mWARNING: b\033[0m\nWARNING: c\nWARNING: d\n"
