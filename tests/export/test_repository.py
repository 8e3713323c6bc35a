"""A version of a model comes whole or not at all, the same export is not made twice, and the command says what it did."""

import json
import os
import re
import shutil
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
from export import exporter, token_check
from export import repository as repository_module
from export.__main__ import main
from export.checkpoint import CheckpointError
from export.checkpoints import read
from export.exporter import ExportSettings, export
from export.graph import write_graph
from export.model_directory import config_pbtxt
from export.names import default_name
from export.repository import Repository, RepositoryError, fingerprint
from tests.export import samples
from tests.own_mounts import in_own_mounts, require_mounts

ROOT = Path(__file__).parents[2]
NAME = "tiny"


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
    values: dict = {"checkpoint": checkpoint, "repository": path, "name": NAME, "precision": "int8"} | changes
    return ExportSettings(**values)


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def old_model(tmp_path: Path) -> Path:
    """A repository with a model of an earlier release in it."""
    model = tmp_path / "models" / NAME
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text("old")
    (model / "MODEL_CARD.md").write_text("old")
    (model / "1" / "model.onnx").write_text("old")
    (model / "1" / "model_card.json").write_text('{"fingerprint": "old"}')
    return tmp_path / "models"


def add_version(repository: Repository, name: str = NAME, config: str = "config") -> None:
    with repository.lock(), repository.adding_version(name, config) as directory:
        (directory / "model_card.json").write_text(f'{{"fingerprint": "of {directory.name}"}}')


def test_a_directory_holds_all_that_triton_and_the_gateway_need(tmp_path: Path, checkpoint: Path) -> None:
    done = run(checkpoint, "--repository", tmp_path / "models", "--name", NAME)
    assert done.returncode == 0, done.stderr
    version = ("model.onnx", "model.onnx.data", "tokenizer.json", "chat_template.jinja", "model_card.json", "MODEL_CARD.md")
    assert set(tree(tmp_path / "models" / NAME)) == {"config.pbtxt", *(f"1/{name}" for name in version)}
    assert os.listdir(tmp_path) == ["models"]
    assert re.search(r"kl [\d.e-]+, top1 [\d.]+", done.stderr)
    assert "peak memory" in done.stderr
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


def test_a_fingerprint_changes_with_the_file_and_with_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(b"weights")
    first = fingerprint([file], {"precision": "int8"})
    assert fingerprint([file], {"precision": "int8"}) == first
    assert fingerprint([file], {"precision": "int4"}) != first
    os.utime(file, (1, 1))
    assert fingerprint([file], {"precision": "int8"}) != first


def test_a_link_to_nowhere_beside_a_checkpoint_does_not_hinder_its_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").symlink_to(tmp_path / "gone")
    assert fingerprint([tmp_path], {}) == fingerprint([tmp_path], {})


@pytest.mark.parametrize("name", ["dolly.jinja", "verify_text.txt", "checkpoints/gguf.py"])
def test_a_fingerprint_changes_with_every_file_of_the_exporter(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(Path(repository_module.__file__).parent, tmp_path / "export")
    monkeypatch.setattr(repository_module, "__file__", str(own / "repository.py"))
    first = fingerprint([], {})
    (own / "__pycache__").mkdir(exist_ok=True)
    (own / "__pycache__" / "graph.pyc").touch()
    assert fingerprint([], {}) == first
    with (own / name).open("a") as file:
        file.write("\n")
    assert fingerprint([], {}) != first


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


def test_a_failing_export_leaves_the_old_model_and_nothing_else(old_model: Path) -> None:
    before, repository = tree(old_model.parent), Repository(old_model)
    with pytest.raises(RuntimeError), repository.lock(), repository.adding_version(NAME, "new") as directory:
        (directory / "half").write_text("written")
        raise RuntimeError
    assert tree(old_model.parent) == before
    assert os.listdir(old_model.parent) == ["models"]


def test_a_replacement_that_fails_half_way_brings_the_old_model_back(old_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository_module, "_swap", lambda one, other: False)
    before, repository = tree(old_model.parent), Repository(old_model)
    monkeypatch.setattr(repository_module, "_flush", lambda directory: directory.exists() and shutil.rmtree(directory))
    with pytest.raises(RepositoryError, match="cannot be written"):
        add_version(repository, config="new")  # the old model is moved out of the way, and then there is no new one
    assert tree(old_model.parent) == before
    assert os.listdir(old_model.parent) == ["models"]


@pytest.mark.parametrize("name", ["retired", "new"])
def test_a_model_may_be_named_as_a_part_of_the_workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(repository_module, "_swap", lambda one, other: False)
    repository = Repository(tmp_path / "models")
    for config in ("old", "new", "new"):
        add_version(repository, name, config)
    assert repository.versions(name) == [2, 3] and repository.fingerprint_of(name) == "of 3"
    assert (tmp_path / "models" / name / "config.pbtxt").read_text() == "new"
    assert os.listdir(tmp_path) == ["models"]


@pytest.mark.parametrize("can_swap", [True, False], ids=["in one step", "in two steps"])
def test_another_configuration_comes_with_the_version_that_needs_it(
    old_model: Path, monkeypatch: pytest.MonkeyPatch, can_swap: bool
) -> None:
    if not can_swap:
        monkeypatch.setattr(repository_module, "_swap", lambda one, other: False)
    before = tree(old_model / NAME / "1")
    add_version(Repository(old_model), config="new")
    assert (old_model / NAME / "config.pbtxt").read_text() == "new"
    assert sorted(os.listdir(old_model / NAME)) == ["1", "2", "config.pbtxt"]
    assert tree(old_model / NAME / "1") == before
    assert os.listdir(old_model.parent) == ["models"]


def test_a_new_version_touches_nothing_of_the_one_before_which_goes_with_the_next(tmp_path: Path) -> None:
    """Triton loads a version again where a file of it has a new time, of its status too: a hard link would set that."""
    repository = Repository(tmp_path / "models")
    add_version(repository)
    files = [tmp_path / "models" / NAME / name for name in ("config.pbtxt", "1", "1/model_card.json")]
    before = [file.stat() for file in files]
    add_version(repository)
    assert repository.versions(NAME) == [1, 2]
    assert [(now.st_ino, now.st_mtime_ns, now.st_ctime_ns) for now in (file.stat() for file in files)] == [
        (then.st_ino, then.st_mtime_ns, then.st_ctime_ns) for then in before
    ]
    add_version(repository)
    assert repository.versions(NAME) == [2, 3]


def test_a_model_that_is_not_ours_is_replaced_whole_under_a_new_version(old_model: Path) -> None:
    (old_model / NAME / "1" / "model_card.json").unlink()
    add_version(Repository(old_model))
    assert set(tree(old_model)) == {f"{NAME}/config.pbtxt", f"{NAME}/2/model_card.json"}


def test_an_old_version_is_retired_unless_an_export_runs(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    for _ in range(2):
        add_version(repository)
    with repository.lock(), pytest.raises(BlockingIOError), Repository(tmp_path / "models").lock(wait=False):
        pass
    with repository.lock(wait=False):
        repository.retire(NAME, 1)
    assert repository.versions(NAME) == [2]
    assert os.listdir(tmp_path) == ["models"]


def test_a_death_between_the_two_renames_is_mended_at_the_next_start(old_model: Path) -> None:
    before = tree(old_model)
    retired = old_model.parent / ".models.export" / "retired"
    retired.mkdir(parents=True)
    (old_model / NAME).rename(retired / NAME)
    with Repository(old_model).lock():
        assert tree(old_model) == before
    assert os.listdir(old_model.parent) == ["models"]


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


def test_a_repository_that_is_a_bind_mount_of_the_same_file_system_is_written(tmp_path: Path) -> None:
    """Names cannot be moved into it from outside, though it is the same device."""
    script = (
        "mkdir models && mount --bind models models && exec "
        f"{sys.executable} -c 'from tests.export.test_repository import *; add_version(Repository(Path(\"models\")))'"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    require_mounts(tmp_path)
    command = in_own_mounts(tmp_path / "root", "sh", "-c", script)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(tree(tmp_path / "models")) == {f"{NAME}/config.pbtxt", f"{NAME}/1/model_card.json"}


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
    assert "README.md is no model" in done.stderr and "Traceback" not in done.stderr
    assert tree(tmp_path) == {"README.md": b"about these models"}


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
        (["--name", "a/b"], "'a/b' is no model name; allowed are letters"),
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


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("log/model_40000.pt", "model_40000"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct-q4_1"),
        ("out/Llama 3.2 (1B)", "llama-3-2-1b"),
        ("模型.pt", "model"),
    ],
)
def test_a_models_name_comes_from_the_file_name(path: str, name: str) -> None:
    assert default_name(Path(path)) == name
