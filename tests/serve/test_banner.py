"""What a start prints: an address, a key and a command that can be used."""

from pathlib import Path

import pytest

from gateway.settings import Settings
from serve.banner import announce


def test_the_banner_names_the_key_to_send(capsys: pytest.CaptureFixture[str]) -> None:
    announce(Settings(my_api_key="it's mine"))
    said = capsys.readouterr().out
    assert "  key      it's mine\n" in said and "X-API-Key: it" in said


def test_the_banner_of_a_file_of_keys_says_where_the_keys_are(capsys: pytest.CaptureFixture[str]) -> None:
    announce(Settings(my_api_key=None, api_keys_file=Path("keys.json")))
    said = capsys.readouterr().out
    assert "None" not in said
    assert "  key      one of those in keys.json; `tidegate keys create NAME --file keys.json` makes another\n" in said
    assert "-H 'X-API-Key: YOUR-KEY'" in said
