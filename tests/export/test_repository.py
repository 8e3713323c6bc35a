"""A version of a model comes whole or not at all, and a fingerprint tells whether the same export was made before."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from export import repository as repository_module
from export.repository import Repository, RepositoryError, fingerprint
from testing import ROOT
from tests.export.conftest import NAME, tree
from tests.own_mounts import in_own_mounts, require_mounts


def add_version(repository: Repository, name: str = NAME, config: str = "config") -> None:
    with repository.lock(), repository.adding_version(name, config) as directory:
        (directory / "model_card.json").write_text(f'{{"fingerprint": "of {directory.name}"}}')


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
