"""Settings are refused by name, and `make help` lists all of them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from export import names, quantize
from gateway.settings import Settings as GatewaySettings
from gateway.settings import SettingsError
from serve.setting_table import ALL, CHECKPOINT, PYTHON
from serve.settings import VARIABLES, Settings

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
            "MODEL_REPOSITORY": str(tmp_path),
            "MODELS": "a, b",
            "TRITON_URL": "triton:8001",
            "PORT": "5003",
        }
    )
    gateway = GatewaySettings(port=5003, triton_url="triton:8001")
    assert read == Settings(gateway, False, checkpoint, "fp32", str(tokenizer), "dolly", 12, 512, 4, tmp_path, ("a", "b"))
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
        ("MODEL_REPOSITORY", "/dev/null"),
        ("PORT", "0"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_itself(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable} is '{re.escape(value)}'"):
        Settings.from_environment({variable: value})


def test_the_allowed_precisions_are_those_of_the_export() -> None:
    assert (names.AUTO, *quantize.PRECISIONS) == names.PRECISIONS


def test_helps_list_every_target_and_setting() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^([a-z-]+):", makefile, re.MULTILINE):
        assert f"make {target} " in text
    command = [sys.executable, "-m", "tidegate", "serve", "--help"]
    flags = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {setting.name for setting in ALL} == VARIABLES
    for setting in ALL:
        assert f"  {setting.name} " in text
        assert setting in (CHECKPOINT, PYTHON) or f"  {setting.flag} " in flags


# Of shells, containers, CI, batch systems, CUDA and other servers: some are close to a setting, and none is meant for it.
OTHERS = """
PATH HOME HOSTNAME HOSTS PORTS PORTAL HTTP_PORT SPORT POST GHOST HEAD HEADER SLOT NSLOTS PYTHON3 PYTHONPATH PYTHONHOME
PYTHON_VERSION PYTHONUNBUFFERED MODEL MODEL_DIR MODEL_PATH MODEL_ID MODEL_NAMES MODEL_NAME_2 MODEL_TYPE BASE_MODEL_NAME
MODELS_DIR MODEL_REPO CHECKPOINT CHECKPOINT_PATH CHECKPOINT_DIR API_KEY OPENAI_API_KEY HF_API_KEY XAI_API_KEY AI_API_KEY
NV_API_KEY API_KEYS API_KEY_ID MY_API_KEY_2 ANTHROPIC_API_KEY GITHUB_API_URL TOKENIZERS_PARALLELISM TOKEN LOG_LEVEL LOG_FILE
LOG_FORMATTER LOGNAME LOG_DIR TIMEOUT IDLE_TIMEOUT REQUEST_TIMEOUT TRITON_PORT TRITON_SERVICE_HOST TRITON_SERVICE_PORT
TRITON_PORT_8001_TCP TRITON_CACHE_DIR TRITON_HOME TIDEGATE_SERVICE_HOST TIDEGATE_SLOTS TIDEGATE_DEVICE CONTEXT CONTEXT_NAME
CUDA_HOME CUDA_VISIBLE_DEVICES MAX_WAIT CORS_ORIGIN_WHITELIST OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_EXPORTER_OTLP_PROTOCOL
OTEL_EXPORTER_OTLP_TIMEOUT OTEL_EXPORTER_OTLP_HEADERS OTEL_SERVICE_NAME GRACE PRECISION_MODE TEMPLATE DRAIN SSH_CLIENT
USERNAME LANG LC_ALL TERM SHLVL PWD OLDPWD SHELL LS_COLORS EDITOR PAGER DISPLAY XDG_DATA_HOME XDG_RUNTIME_DIR
DBUS_SESSION_BUS_ADDRESS INVOCATION_ID JOURNAL_STREAM KUBERNETES_SERVICE_HOST KUBERNETES_PORT KUBERNETES_SERVICE_PORT_HTTPS
CI GITHUB_WORKSPACE GITHUB_REPOSITORY RUNNER_TEMP GITLAB_CI CI_JOB_TOKEN SLURM_JOB_ID OMP_NUM_THREADS LD_LIBRARY_PATH
VIRTUAL_ENV CONDA_PREFIX PIP_INDEX_URL UV_INDEX_URL http_proxy no_proxy MAKEFLAGS MAKELEVEL DOCKER_HOST RABBITMQ_HOST
"""


def test_variables_of_other_programs_are_no_misspelt_settings() -> None:
    here = os.environ.keys() - VARIABLES
    read = Settings.from_environment(dict.fromkeys((*OTHERS.split(), *here), "x"))
    assert read == Settings.from_environment({})


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("MODEL_CHEKPOINT", "MODEL_CHECKPOINT"),
        ("MODELCHECKPOINT", "MODEL_CHECKPOINT"),
        ("model_checkpoint", "MODEL_CHECKPOINT"),
        ("MODEL_NAM", "MODEL_NAME"),
        ("PROT", "PORT"),
        ("SLTOS", "SLOTS"),
        ("TOKENISER", "TOKENIZER"),
        ("MY_APIKEY", "MY_API_KEY"),
        ("API_KEY_FILE", "API_KEYS_FILE"),
        ("QUEUE_TIMOUT", "QUEUE_TIMEOUT"),
        ("SPEKULATION", "SPECULATION"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_one_that_was_meant(variable: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable} is set, .*did you mean {meant}"):
        Settings.from_environment({variable: "x"})
    assert Settings.from_environment({variable: " "}) == Settings.from_environment({})
