"""Loading a checkpoint runs no code of it: pickles that would create a file on loading are refused by name, and create none."""

import argparse
import io
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from export.checkpoint import CheckpointError
from export.checkpoints import read
from tests.export import samples


class Calls:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def payloads(marker: Path) -> dict[str, Calls]:
    import os
    import pathlib
    import runpy
    import subprocess

    return {
        "posix.system": Calls(os.system, f"touch {marker}"),
        "builtins.exec": Calls(exec, f"open({str(marker)!r}, 'w')"),
        "builtins.eval": Calls(eval, f"open({str(marker)!r}, 'w')"),
        "io.open": Calls(io.open, str(marker), "w"),
        "subprocess.run": Calls(subprocess.run, ["touch", str(marker)]),
        "pathlib.Path.touch": Calls(getattr, pathlib.Path(marker), "touch"),
        "runpy.run_path": Calls(runpy.run_path, str(marker)),
        "torch.serialization.load": Calls(torch.serialization.load, str(marker)),
    }


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("harmless") / "ckpt.pt"
    samples.nanogpt(path)
    return torch.load(path, weights_only=True)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "code_ran"


@pytest.mark.parametrize("place", ["config", "model", "optimizer", "model_args", "val_loss"])
@pytest.mark.parametrize("payload", payloads(Path("x")))
def test_a_pt_that_would_run_code_is_refused_and_runs_none(
    payload: str, place: str, harmless: dict[str, Any], tmp_path: Path, marker: Path
) -> None:
    torch.save(harmless | {place: payloads(marker)[payload]}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="(could run code|would call .*) on loading"):
        read(tmp_path / "evil.pt")
    assert not marker.exists()


@pytest.mark.parametrize("payload", payloads(Path("x")))
def test_a_meta_pkl_that_would_run_code_is_refused_and_runs_none(payload: str, tmp_path: Path, marker: Path) -> None:
    samples.nanogpt(tmp_path / "ckpt.pt")
    content = {"vocab_size": 2, "itos": {0: "a"}, "stoi": {"a": 0}, "more": payloads(marker)[payload]}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="(could run code|would call .*) on loading"):
        read(tmp_path / "ckpt.pt")
    assert not marker.exists()


@pytest.mark.parametrize("payload", ["posix.system", "builtins.exec", "io.open"])
def test_the_pickles_of_these_tests_do_run_code_where_loading_is_careless(payload: str, marker: Path) -> None:
    pickle.loads(pickle.dumps(payloads(marker)[payload]))
    assert marker.exists()


def test_a_class_of_an_unknown_module_is_never_imported(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples.build_nanogpt(tmp_path / "model.pt", module="train_gpt2")
    (tmp_path / "train_gpt2.py").write_text(f"open({str(marker)!r}, 'w')\nclass GPTConfig: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert read("model.pt").architecture.layers == 2
    assert "train_gpt2" not in sys.modules and not marker.exists()


def test_a_config_that_would_be_made_by_a_call_is_refused_by_name(tmp_path: Path) -> None:
    samples.build_nanogpt(tmp_path / "model.pt")
    with samples.class_of("train_gpt2", "GPTConfig", ["n_layer"]) as config_class:
        torch.save({"model": {}, "config": Calls(config_class, 12)}, tmp_path / "calls.pt")
    with pytest.raises(CheckpointError, match="it would call train_gpt2.GPTConfig on loading"):
        read(tmp_path / "calls.pt")


def test_a_whole_pickled_model_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match="it names torch.nn.modules.linear.Linear"):
        read(tmp_path / "module.pt")


def test_a_bare_pickle_is_refused_unread(tmp_path: Path, marker: Path) -> None:
    (tmp_path / "model.pt").write_bytes(pickle.dumps(payloads(marker)["posix.system"]))
    with pytest.raises(CheckpointError, match="it is a bare pickle, as torch.save wrote before version 1.6"):
        read(tmp_path / "model.pt")
    torch.save({"model": {}}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="it is a bare pickle, as torch.save wrote before version 1.6"):
        read(tmp_path / "old.pt")
    assert not marker.exists()


def test_the_namespace_of_a_command_line_may_lie_beside_the_weights(harmless: dict[str, Any], tmp_path: Path) -> None:
    torch.save(harmless | {"args": argparse.Namespace(batch_size=4)}, tmp_path / "with_args.pt")
    samples.write_meta(tmp_path / "meta.pkl", samples.CHARACTERS)
    assert read(tmp_path / "with_args.pt").architecture.layers == 2
