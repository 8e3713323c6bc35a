"""The bundle of `make gpu-check`: what travels, and that it runs where nothing can be installed."""

import hashlib
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from bench.gpu_check import golden
from bench.gpu_check.bundle import BundleError, fat_binary, requirements
from bench.gpu_check.bundle.__main__ import MIB, PROVIDER, REQUIREMENTS, write_pieces
from tests.conftest import ROOT
from tests.deploy.engine import debian
from tests.missing import missing
from tests.own_mounts import in_own_mounts, require_mounts

HAS_PEERS = "Package  Version\n-------- -------\ntorch    2.11.0+cu130\ntransformers 5.17.0\n"
LOOPBACK_UP = 'import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 1))'


@pytest.mark.slow
def test_a_bundle_runs_in_another_root_without_a_network(tmp_path: Path) -> None:
    """Debian 13, for a bundle of this Python; torch and transformers are there already, as on most machines with a GPU."""
    require_mounts(tmp_path)
    if not shutil.which("mmdebstrap"):
        missing("NOT TESTED: the bundle; this takes mmdebstrap (`scripts/test-packages all` installs it)")
    (tmp_path / "has").write_text(HAS_PEERS)
    root = tmp_path / "machine"
    options = ["--device", "cpu", "--has", tmp_path / "has"]
    made = subprocess.run(
        [ROOT / "scripts" / "gpu-check", "--bundle", root / "bundle", *options],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    subprocess.run(["tar", "-xf", debian(), "-C", root], check=True)
    (root / "peers").mkdir()
    python = f"/bundle/unpacked/python/bin/python3.{sys.version_info.minor}"
    (root / "usr/local/bin/peers-python").write_text(f'#!/bin/sh\nPYTHONPATH=/peers exec {python} "$@"\n')
    (root / "usr/local/bin/peers-python").chmod(0o755)

    check = "/bundle/unpack-and-run --peers-python peers-python --device cpu --quick --out /results"
    script = f"""
        {sys.executable} -c {shlex.quote(LOOPBACK_UP)}
        mount --rbind /dev {root}/dev
        mount -t tmpfs tmpfs {root}/dev/shm
        mount --bind /proc {root}/proc
        mount --bind {sysconfig.get_path("purelib")} {root}/peers
        exec chroot {root} env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/root {check}"""
    command = in_own_mounts(tmp_path / "mounts", "unshare", "--net", "sh", "-ec", script)
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = json.loads((root / "results" / "quick" / "gpu-check.json").read_text())
    checks = results["golden"]["checks"]
    assert len(checks) == len(golden.ARRANGEMENTS) + 2 and all(check["passed"] for check in checks)
    shutil.rmtree(root / "bundle")  # a gigabyte, which pytest would keep


def fat_library(*capabilities: tuple[int, ...]) -> bytearray:
    """An ELF file with a fat binary for each of ``capabilities``; the code of a capability is that byte, 24 times."""
    section = b""
    for number, of_one in enumerate(capabilities):
        entries = b"".join(struct.pack("<HHIQ12xI32x", 2, 257, 64, 24, one) + bytes([one]) * 24 for one in of_one)
        section += struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries + bytes(8 * number)
    names = b"\0.nv_fatbin\0.shstrtab\0"
    at = 64 + len(section) + len(names)
    header = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, at, 0, 64, 0, 0, 64, 3, 2)
    table = [(0, 0, 0, 0, 0, 0), (1, 1, 2, 0, 64, len(section)), (12, 3, 0, 0, 64 + len(section), len(names))]
    return bytearray(header + section + names + b"".join(struct.pack("<IIQQQQ24x", *one) for one in table))


def test_trimming_keeps_the_layout_and_the_code_of_one_capability() -> None:
    library = fat_library((75, 80, 90), (80, 90, 120), (90,), (120,))
    before = bytes(library)
    entries = list(fat_binary.read_entries(library))
    assert [entry.capability for entry in entries] == [75, 80, 90, 80, 90, 120, 90, 120]
    assert fat_binary.trim(library, 90) == 3 * 24
    assert list(fat_binary.read_entries(library)) == entries and len(library) == len(before)
    expected = bytearray(before)
    for capability in (75, 80, 120):
        expected = expected.replace(bytes([capability]) * 24, bytes(24))
    assert library == expected and library.count(b"\x5a" * 24) == 3


def test_a_capability_that_the_provider_was_not_built_for_is_refused() -> None:
    with pytest.raises(BundleError, match="no code for the compute capability 70, only for 75, 90$"):
        fat_binary.trim(fat_library((75, 90)), 70)
    library = fat_library((75,))
    with pytest.raises(BundleError, match="no section .nv_fatbin"):
        fat_binary.trim(library.replace(b"nv_fatbin", b"nv_others"), 75)


def test_pieces_are_small_and_make_the_same_tree_again(tmp_path: Path) -> None:
    tree, bundle = tmp_path / "tree", tmp_path / "bundle"
    tree.mkdir()
    (tree / "file").write_bytes(content := os.urandom(5 * MIB // 2))
    write_pieces(tree, bundle, 1)
    pieces = sorted(bundle.glob("piece-*"))
    assert [piece.stat().st_size <= MIB for piece in pieces] == [True] * 3
    sums = [f"{hashlib.sha256(piece.read_bytes()).hexdigest()}  {piece.name}" for piece in pieces]
    assert (bundle / "SHA256SUMS").read_text().splitlines() == sums
    subprocess.run(f"cat {bundle}/piece-* | xz -dc | tar -x -C {bundle}", shell=True, check=True)
    assert (bundle / "file").read_bytes() == content

    def unpack() -> tuple[int, str]:
        done = subprocess.run([bundle / "unpack-and-run"], capture_output=True, text=True)
        return done.returncode, done.stderr

    last = pieces[2].read_bytes()
    pieces[2].unlink()
    status, said = unpack()
    assert status == 3 and "waiting for piece-02, of 3 pieces" in said
    pieces[2].write_bytes(last[:-1])
    status, said = unpack()
    assert status == 1 and "a piece is damaged; copy it again" in said


def test_what_the_target_has_is_left_out(tmp_path: Path) -> None:
    lock, serve = (requirements.read_lock(REQUIREMENTS / f"{name}.lock") for name in ("gpu-check", "serve"))
    not_needed = requirements.read_names(REQUIREMENTS / "not-needed.txt")
    assert requirements.for_gpu(lock, {}, not_needed) == lock

    installed = tmp_path / "installed"
    installed.write_text(
        f"{HAS_PEERS}numpy==2.4.6\nnvidia_cudnn.cu13 9.19.0.56\nnvidia-cufft 11.9\ngrpcio @ file:///grpcio.whl\n"
    )
    has = requirements.read_installed(installed)
    travelling = requirements.for_gpu(lock, has, not_needed)
    # The peers and what only they import; a library of CUDA in the same major version. Not what belongs to another Python.
    left_out = lock.keys() - travelling.keys()
    assert {"torch", "transformers", "triton", "sympy", "mpmath", "huggingface-hub", "nvidia-cudnn-cu13"} <= left_out
    assert {
        "numpy",
        "grpcio",
        "nvidia-cufft",
        "nvidia-curand",
        "cuda-bindings",
        "onnxruntime-gpu",
        "jinja2",
    } <= travelling.keys()
    # All that serving imports, but for the other build of onnxruntime.
    assert serve.keys() - travelling.keys() == {"onnxruntime"}
    on_cpu = requirements.for_cpu(lock, serve, has, not_needed)
    assert serve.keys() <= on_cpu.keys() and not any(one.startswith("cuda") or one == "onnxruntime-gpu" for one in on_cpu)
    assert str(PROVIDER).startswith("onnxruntime/")


def test_a_list_or_a_lock_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    listed = tmp_path / "listed"
    listed.write_text("numpy==2.4.6\nnumpy\n")
    with pytest.raises(BundleError, match="listed, line 2: 'numpy' is neither `NAME==VERSION` nor `NAME VERSION`"):
        requirements.read_installed(listed)
    listed.write_text("numpy==2.4.6 \\\n    --hash=sha256:00\n    # via -r requirements/serve.in\nonnx==1.23.2\n")
    with pytest.raises(BundleError, match="listed: onnx has no hash; `scripts/lock` writes them"):
        requirements.read_lock(listed)
