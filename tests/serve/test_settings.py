"""Settings are refused by name, and `make help` lists all of them."""

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from export import names, quantize
from gateway.settings import Settings as GatewaySettings
from gateway.settings import SettingsError
from serve.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent


def test_nothing_set_means_the_demonstration_model_on_a_triton_of_our_own() -> None:
    read = Settings.from_environment({})
    assert read == Settings(gateway=GatewaySettings())
    assert read.own_triton
    assert read.checkpoint is None


def test_every_setting_arrives(tmp_path: Path) -> None:
    checkpoint, tokenizer = tmp_path / "Model_40000.pt", tmp_path / "tokenizer.json"
    checkpoint.touch()
    tokenizer.touch()
    read = Settings.from_environment(
        {
            "MODEL_CHECKPOINT": str(checkpoint),
            "PRECISION": "fp32",
            "TOKENIZER": str(tokenizer),
            "CHAT_TEMPLATE": "dolly",
            "HEADS": "12",
            "CONTEXT_LENGTH": "512",
            "SLOTS": "4",
            "TRITON_URL": "triton:8001",
            "PORT": "5003",
        }
    )
    gateway = GatewaySettings(port=5003, triton_url="triton:8001")
    assert read == Settings(gateway, False, checkpoint, "fp32", str(tokenizer), "dolly", 12, 512, 4)
    assert read.model_name(checkpoint) == "model_40000"


def test_a_given_name_is_the_models_name() -> None:
    assert Settings.from_environment({"MODEL_NAME": "mine"}).model_name(Path("log/model.pt")) == "mine"


def test_auto_and_empty_mean_not_set() -> None:
    assert Settings.from_environment({"SLOTS": "auto", "CONTEXT_LENGTH": "", "PRECISION": " "}) == Settings.from_environment({})


def test_gpt2_is_a_tokenizer_without_a_file() -> None:
    assert Settings.from_environment({"TOKENIZER": "gpt2"}).tokenizer == "gpt2"


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    read = Settings.from_environment(dict.fromkeys(("MODEL_CHECKPOINT", "TOKENIZER", "CHAT_TEMPLATE"), "~/file"))
    assert (read.checkpoint, read.tokenizer, read.chat_template) == (tmp_path / "file", *[str(tmp_path / "file")] * 2)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MODEL_CHECKPOINT", "/no/such/file.pt"),
        ("MODEL_NAME", "../elsewhere"),
        ("PRECISION", "INT8"),
        ("TOKENIZER", "/no/such/tokenizer.json"),
        ("CHAT_TEMPLATE", "doly"),
        ("CONTEXT_LENGTH", "-1"),
        ("CONTEXT_LENGTH", "2k"),
        ("SLOTS", "0"),
        ("SLOTS", "1.5"),
        ("PORT", "0"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_itself(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable} is '{re.escape(value)}'"):
        Settings.from_environment({variable: value})


def test_the_allowed_precisions_are_those_of_the_export() -> None:
    assert (names.AUTO, *quantize.PRECISIONS) == names.PRECISIONS


def test_make_help_lists_every_target_and_setting() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^([a-z-]+):", makefile, re.MULTILINE):
        assert f"make {target} " in text
    own = {"checkpoint": "MODEL_CHECKPOINT", "gateway": "PORT", "own_triton": "TRITON_URL"}
    for field in (*fields(Settings), *fields(GatewaySettings)):
        assert f"  {own.get(field.name, field.name.upper())} " in text
