"""An export leaves a whole model or none, is not made twice, tells what it did, and writes what both sides need."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from backends.onnx_decoder.contract.tensors import INPUTS, OUTPUTS
from export import exporter
from export.__main__ import main
from export.checkpoint import CheckpointError
from export.checkpoints import read
from export.exporter import ExportSettings, export
from export.graph import write_graph
from export.model_directory import config_pbtxt
from export.names import default_name
from export.repository import Repository
from export.text import token_check
from testing import ROOT
from tests.export import samples
from tests.export.conftest import NAME, tree


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    samples.hf_llama(path)
    return path


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "export", *map(str, arguments)]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=120)


def settings(checkpoint: Path, path: Path, **changes: object) -> ExportSettings:
    values: dict = {"checkpoint": checkpoint, "repository": path, "name": NAME, "precision": "auto"} | changes
    return ExportSettings(**values)


def test_a_directory_holds_all_that_triton_and_the_gateway_need(tmp_path: Path, checkpoint: Path) -> None:
    done = run(checkpoint, "--repository", tmp_path / "models", "--name", NAME)
    assert done.returncode == 0, done.stderr
    version = ("model.onnx", "model.onnx.data", "tokenizer.json", "chat_template.jinja", "model_card.json", "MODEL_CARD.md")
    assert set(tree(tmp_path / "models" / NAME)) == {"config.pbtxt", *(f"1/{name}" for name in version)}
    assert os.listdir(tmp_path) == ["models"]
    assert re.search(
        r"Reading .*\nPrecision: .*\nWriting .*\nComparing .*\n( +\d+ % after \d+ s\n)*"
        r"Same as the checkpoint: top-1 [\d.]+ %, bound 88 %; details in model_card.json\n"
        r"Exported to .* in \d+ s, peak memory .*\n$",
        done.stderr,
    )
    assert "kl" in (tmp_path / "models" / NAME / "1" / "MODEL_CARD.md").read_text()


def test_the_same_export_is_not_made_twice(tmp_path: Path, checkpoint: Path) -> None:
    assert export(settings(checkpoint, tmp_path / "models"))
    before = (tmp_path / "models" / NAME / "1" / "model.onnx").stat().st_ino
    second = run(checkpoint, "--repository", tmp_path / "models", "--name", NAME)
    assert second.returncode == 0 and f"{NAME} is up to date" in second.stderr
    assert (tmp_path / "models" / NAME / "1" / "model.onnx").stat().st_ino == before
    assert export(settings(checkpoint, tmp_path / "models"), force=True)
    assert export(settings(checkpoint, tmp_path / "models", precision="fp32"))
    assert Repository(tmp_path / "models").versions(NAME) == [2, 3]
    assert not export(settings(checkpoint, tmp_path / "models", precision="fp32"))


def test_a_checkpoint_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples.hf_llama(tmp_path / "checkpoint")

    def write_graph_beside_a_training(*arguments: Any, **options: Any) -> None:
        write_graph(*arguments, **options)
        os.utime(tmp_path / "checkpoint" / "model.safetensors", (1, 1))

    monkeypatch.setattr(exporter, "write_graph", write_graph_beside_a_training)
    with pytest.raises(CheckpointError, match="checkpoint changed while it was read: run the export again"):
        export(settings(tmp_path / "checkpoint", tmp_path / "models"))
    assert os.listdir(tmp_path / "models") == []


def test_a_file_of_a_directory_that_changes_is_noticed_however_the_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (directory / name).touch()
    (tmp_path / "mine.jinja").write_text("a")
    named = [settings(checkpoint, tmp_path / "models") for checkpoint in (directory, directory / "config.json")]
    named.append(replace(named[0], tokenizer="~/model"))
    first = [one.fingerprint() for one in named]
    assert [one.fingerprint() for one in named] == first
    (directory / "tokenizer.json").write_text("{}")
    assert not set(first) & {one.fingerprint() for one in named}
    template = replace(named[0], chat_template="~/mine.jinja")
    before = template.fingerprint()
    (tmp_path / "mine.jinja").write_text("ab")
    assert template.fingerprint() != before


@pytest.mark.parametrize("moment", ["tokenizer.json", "model.onnx.data", "model.onnx"])
def test_a_killed_export_leaves_the_old_model_and_the_next_one_cleans_up(
    old_model: Path, checkpoint: Path, moment: str
) -> None:
    before = tree(old_model)
    arguments: list[str | Path] = [checkpoint, "--repository", old_model, "--name", NAME]
    process = subprocess.Popen(command(*arguments), cwd=ROOT, stderr=subprocess.DEVNULL)
    workshop = old_model.parent / ".models.export"
    while not any(workshop.rglob(moment)):
        assert process.poll() is None, "the export ended before it could be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert tree(old_model) == before
    assert workshop.exists()
    assert run(*arguments).returncode == 0
    assert os.listdir(old_model.parent) == ["models"]
    assert os.listdir(old_model) == [NAME]
    assert (old_model / NAME / "config.pbtxt").read_text() != "old"


def test_ctrl_c_leaves_the_old_model_and_nothing_else(old_model: Path, checkpoint: Path) -> None:
    before = tree(old_model)
    arguments = command(checkpoint, "--repository", old_model, "--name", NAME)
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (old_model.parent / ".models.export").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "nothing was changed" in said and "Traceback" not in said
    assert tree(old_model) == before
    assert os.listdir(old_model.parent) == ["models"]


@pytest.mark.slow
def test_two_exports_at_once_both_arrive(tmp_path: Path, checkpoint: Path) -> None:
    processes = [
        subprocess.Popen(
            command(checkpoint, "--repository", tmp_path / "models", "--name", name), cwd=ROOT, stderr=subprocess.DEVNULL
        )
        for name in ("one", "other")
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert sorted(os.listdir(tmp_path / "models")) == ["one", "other"]
    assert os.listdir(tmp_path) == ["models"]


def test_a_refused_model_is_one_sentence_and_exit_code_1(old_model: Path, checkpoint: Path) -> None:
    before = tree(old_model)
    done = run(checkpoint, "--repository", old_model, "--name", NAME, "--context-length", "100000")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "allowed is 16 to 128" in done.stderr
    assert tree(old_model) == before


def test_a_repository_that_cannot_be_written_is_one_sentence_and_exit_code_1(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "file").touch()
    done = run(checkpoint, "--repository", tmp_path / "file" / "models")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr and "Traceback" not in done.stderr


def test_a_failure_elsewhere_is_not_blamed_on_the_repository(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(token_check, "TEXT", tmp_path / "gone.txt")
    assert main([str(checkpoint), "--repository", str(tmp_path / "models")]) == 1
    said = capsys.readouterr().err
    assert "gone.txt" in said and "nothing was changed" in said and "cannot be written" not in said


def test_a_file_of_the_repository_is_never_replaced_by_a_model(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "README.md").write_text("about these models")
    done = run(checkpoint, "--repository", tmp_path, "--name", "README.md")
    assert done.returncode == 2
    assert "README.md is not a model" in done.stderr and "Traceback" not in done.stderr
    assert tree(tmp_path) == {"README.md": b"about these models"}


@pytest.mark.slow
def test_files_are_utf8_whatever_the_locale_says(tmp_path: Path) -> None:
    samples.hf_llama(tmp_path / "checkpoint")
    samples.save_tokenizer(tmp_path / "checkpoint", template="你好 {{ messages[0]['content'] }}")
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    arguments = command(tmp_path / "checkpoint", "--repository", tmp_path / "models", "--name", NAME)
    subprocess.run(arguments, cwd=ROOT, env=os.environ | ascii_only, check=True, timeout=120)
    template = tmp_path / "models" / NAME / "1" / "chat_template.jinja"
    assert template.read_text(encoding="utf-8") == "你好 {{ messages[0]['content'] }}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["no/such.pt"], "there is no checkpoint no/such.pt"),
        (["--name", "a/b"], "'a/b' is not a valid model name; allowed are letters"),
        (["--precision", "int3"], "invalid choice: 'int3'"),
        (["--slots", "many"], "'many' is neither 'auto' nor a number"),
        (["--candidates", "0"], "0 is less than 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    tmp_path: Path, checkpoint: Path, arguments: list[str], expected: str
) -> None:
    given = arguments if arguments[0] == "no/such.pt" else [str(checkpoint), *arguments]
    done = run(*given, "--repository", tmp_path / "models")
    assert done.returncode == 2
    assert expected in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_the_configuration_is_what_triton_parses(tmp_path: Path, checkpoint: Path) -> None:
    export(settings(checkpoint, tmp_path))
    config = model_config_pb2.ModelConfig()
    text_format.Parse((tmp_path / NAME / "config.pbtxt").read_text(), config)
    assert config.backend == "onnx_decoder" and config.max_batch_size == 16 and config.HasField("dynamic_batching")
    assert all(tensor.allow_ragged_batch and tensor.optional for tensor in config.input)
    for tensors, contract in ((config.input, INPUTS), (config.output, OUTPUTS)):
        types = {tensor.name: (model_config_pb2.DataType.Name(tensor.data_type), len(tensor.dims)) for tensor in tensors}
        assert types == {name: (f"TYPE_{tensor.datatype}", len(tensor.shape)) for name, tensor in contract.items()}
        assert all(size == -1 for tensor in tensors for size in tensor.dims)
    assert config.version_policy.latest.num_versions == 2 and not config.parameters


def test_the_card_tells_what_both_sides_of_the_wire_must_agree_on(tmp_path: Path, checkpoint: Path) -> None:
    export(settings(checkpoint, tmp_path, slots="4", context_length=64, candidates=32))
    parameters = json.loads((tmp_path / NAME / "1" / "model_card.json").read_text())["parameters"]
    original = read(checkpoint)
    vocabulary_size = original.architecture.vocabulary_size
    assert parameters["context_length"] == "64" and parameters["candidates"] == "32" and parameters["slots"] == "4"
    assert parameters["vocabulary_size"] == str(vocabulary_size)
    assert parameters["end_tokens"] == ",".join(map(str, original.tokenizer.end_tokens))
    assert parameters["created"] == str(int(checkpoint.stat().st_mtime))


def test_the_readmes_configuration_is_the_one_that_is_written() -> None:
    readme = (ROOT / "model_repository" / "README.md").read_text()
    shown = model_config_pb2.ModelConfig()
    text_format.Parse(readme.split("```pbtxt\n")[1].split("```")[0], shown)
    written = model_config_pb2.ModelConfig()
    text_format.Parse(config_pbtxt(), written)
    assert shown == written


def test_a_model_is_named_after_its_file_or_the_nearest_directory_whose_name_says_something() -> None:
    names = {
        "log/model_40000.pt": "model_40000",
        "SmolLM2-135M-Instruct.Q4_1.gguf": "smollm2-135m-instruct-q4_1",
        "out/Llama 3.2 (1B)": "llama-3-2-1b",
        "模型.pt": "model",
        "TideGate/model.safetensors": "tidegate",
        "TideGate/model-00001-of-00002.safetensors": "tidegate",
        "TideGate/config.json": "tidegate",
        "out/pythia-160m/final/lit_model.pth": "pythia-160m",
        "hub/models--Qwen--Qwen3-0.6B/snapshots/0123abcd": "qwen3-0-6b",
        "out-shakespeare-char/ckpt.pt": "out-shakespeare-char",
        "nanoGPT/out/ckpt.pt": "nanogpt",
        "nanoGPT/out": "nanogpt",
        "nanoGPT/out/../out": "nanogpt",
        "/checkpoints/out/ckpt.pt": "ckpt",
        "/tmp/ckpt.pt": "ckpt",
        "~/ckpt.pt": "ckpt",
    }
    assert {path: default_name(Path(path).expanduser()) for path in names} == names
