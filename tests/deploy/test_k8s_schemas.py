"""Every manifest is what the API servers of three Kubernetes versions take, and what a linter of security accepts."""

import copy
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.conftest import CACHE
from tests.deploy.manifests import BUILDS, Manifest, manifests, named, workloads
from tests.missing import missing

VERSIONS = ("1.31", "1.34", "1.37")
OPERATORS = {"ServiceMonitor"}  # kinds of the Prometheus operator: no API server knows them by itself
CHECKOV_LOCK = Path(__file__).with_name("checkov.lock")


def distinct_manifests() -> list[Manifest]:
    """Of all builds: most are the same in several."""
    return list({yaml.safe_dump(manifest): manifest for build in BUILDS for manifest in manifests(build)}.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_has_the_fields_that_kubernetes_knows(version: str) -> None:
    for manifest in distinct_manifests():
        if manifest["kind"] not in OPERATORS:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_check_of_fields_finds_a_misspelt_one(version: str) -> None:
    wrong = copy.deepcopy(named("cpu", "Deployment", "gateway"))
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 150
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(wrong, version, strict=True)


@pytest.mark.parametrize("build", [build for build in BUILDS if build not in ("production", "cpu+monitoring")])
def test_a_cluster_without_operators_takes_every_manifest(build: str) -> None:
    assert not OPERATORS & {manifest["kind"] for manifest in manifests(build)}


@pytest.fixture(scope="session")
def checkov() -> Path:
    """In an environment of its own, made once for each content of the lock file: it wants other versions than the tests."""
    directory = CACHE / f"checkov-{hashlib.sha256(CHECKOV_LOCK.read_bytes()).hexdigest()[:12]}"
    if not (directory / "installed").exists():
        shutil.rmtree(directory, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", directory], check=True, timeout=120)
        pip = [directory / "bin" / "python", "-m", "pip", "install", "-q", "--no-deps", "--require-hashes"]
        done = subprocess.run([*pip, "-r", CHECKOV_LOCK], capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            message = f"checkov could not be installed: {done.stderr[-500:]}; the manifests were NOT linted"
            missing(message)
        (directory / "installed").touch()
    return directory / "bin" / "checkov"


@pytest.mark.slow
def test_checkov_finds_nothing_that_is_not_explained(checkov: Path, tmp_path: Path) -> None:
    distinct = distinct_manifests()
    (tmp_path / "manifests.yaml").write_text(yaml.safe_dump_all(distinct))
    command = [checkov, "--skip-download", "--framework", "kubernetes", "--directory", tmp_path, "--output", "json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    told = json.loads(done.stdout)
    failed = {f"{one['check_id']} {one['check_name']}: {one['resource']}" for one in told["results"]["failed_checks"]}
    assert not failed and done.returncode == 0, "\n".join(sorted(failed))
    assert told["summary"]["passed"] > 5 * len(distinct), "it has hardly looked at anything"


@pytest.mark.parametrize("build", BUILDS)
def test_every_exception_from_checkov_has_a_reason(build: str) -> None:
    for workload in workloads(build):
        for name, text in workload["metadata"].get("annotations", {}).items():
            if name.startswith("checkov.io/skip"):
                check, _, reason = text.partition("=")
                assert check.startswith("CKV") and len(reason.split()) > 5, text
