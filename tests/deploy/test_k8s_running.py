"""What the manifests make run, run for real: probes, init containers, the archive's download, the routes of the Ingress."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import httpx
import pytest

from gateway.api.routes import chat, completions, docs, generate, health, metrics, models, page, responses, tokenize
from serve.triton_server import TritonServer, free_port
from tests.conftest import ROOT
from tests.deploy.manifests import K8S, container, environment, named, probes
from tests.deploy.test_k8s_policies import METRIC, adapter_rules
from tests.missing import missing

FETCH = K8S / "components" / "repository-http" / "fetch.py"
INSIDE_ONLY = {"/livez", "/readyz", "/health", "/metrics"}


def test_probes_of_the_gateway_are_answered_200_by_a_real_one(tiny_gateway_url: str) -> None:
    paths = {probe["httpGet"]["path"] for _, probe in probes(container("cpu", "Deployment", "gateway"))}
    assert paths == {"/livez", "/readyz"}
    for path in paths:
        assert httpx.get(f"{tiny_gateway_url}{path}").status_code == 200


def test_metrics_that_scale_and_are_scraped_are_told_by_a_real_gateway(tiny_gateway_url: str) -> None:
    for monitor in ("gateway", "triton"):
        (endpoint,) = named("production", "ServiceMonitor", monitor)["spec"]["endpoints"]
        assert endpoint["path"] == "/metrics"
    exposed = httpx.get(f"{tiny_gateway_url}/metrics").text
    rules = [rule for kind in adapter_rules().values() for rule in kind]
    series = {name for rule in rules for name in METRIC.findall(rule["seriesQuery"] + rule["metricsQuery"])}
    of_gateways = {"tidegate_num_requests_running", "tidegate_num_requests_waiting"}
    assert all(f"\n{name}{{" in exposed for name in of_gateways)
    assert series - of_gateways == {"tidegate_backend_kv_slots"}  # Triton's: tests/backend/test_backend_metrics.py scrapes it


def test_the_ingress_leads_to_every_route_for_clients_and_to_no_other() -> None:
    (rule,) = named("production", "Ingress", "gateway")["spec"]["rules"]
    exact = {path["path"] for path in rule["http"]["paths"] if path["pathType"] == "Exact"}
    prefixes = {path["path"] for path in rule["http"]["paths"] if path["pathType"] == "Prefix"}
    modules = (chat, completions, docs, generate, health, metrics, models, page, responses, tokenize)
    routes = {route.path for module in modules for route in module.router.routes}  # type: ignore[attr-defined]
    reached = {route for route in routes if route in exact or any(f"{route}/".startswith(f"{prefix}/") for prefix in prefixes)}
    assert routes - reached == INSIDE_ONLY


def test_the_gateways_init_container_waits_for_a_model(triton: TritonServer) -> None:
    (script,) = container("cpu", "Deployment", "gateway", "wait-for-triton")["args"]
    env = os.environ | {"TRITON_URL": triton.grpc_address, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "tiny-gpt2" in done.stdout, done.stderr


def test_tritons_init_container_waits_until_the_export_is_there(tmp_path: Path, model_repository: Path) -> None:
    waiting = container("cpu", "Deployment", "triton", "wait-for-model")
    (script,) = waiting["args"]
    command = [*waiting["command"], script.replace("/models", str(tmp_path)).replace("sleep 5", "sleep 0.1")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        (tmp_path / "being-made").mkdir()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        (tmp_path / "tiny-gpt2").symlink_to(model_repository / "tiny-gpt2")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory, and the address at which its files are."""
    directory = tmp_path / "served"
    directory.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=directory)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield directory, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def fetched(archive: Path, url: str, models: Path, sha256: str | None = None) -> subprocess.CompletedProcess[str]:
    """``archive`` by the script of the init container."""
    models.mkdir()
    digest = sha256 or hashlib.sha256(archive.read_bytes()).hexdigest()
    env = {"ARCHIVE_URL": f"{url}/{archive.name}", "ARCHIVE_SHA256": digest, "MODELS": str(models)}
    return subprocess.run([sys.executable, FETCH], env=env, capture_output=True, text=True, timeout=60)


def test_an_archive_of_a_repository_is_fetched_whole(served: tuple[Path, str], tmp_path: Path, model_repository: Path) -> None:
    directory, url = served
    with tarfile.open(directory / "models.tar.gz", "w:gz") as tar:
        tar.add(model_repository / "tiny-gpt2", "tiny-gpt2")
    done = fetched(directory / "models.tar.gz", url, tmp_path / "models")
    assert done.returncode == 0, done.stderr
    original = sorted(path.relative_to(model_repository) for path in (model_repository / "tiny-gpt2").rglob("*"))
    assert sorted(path.relative_to(tmp_path / "models") for path in (tmp_path / "models").rglob("*"))[1:] == original


def test_an_archive_that_is_another_than_promised_is_not_unpacked(served: tuple[Path, str], tmp_path: Path) -> None:
    directory, url = served
    with tarfile.open(directory / "models.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("model/config.pbtxt"), BytesIO())
    done = fetched(directory / "models.tar", url, tmp_path / "models", sha256="0" * 64)
    assert done.returncode == 1 and "ARCHIVE_SHA256" in done.stderr
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.parametrize("name, link", [("../escaped", ""), ("/tmp/escaped", ""), ("link", "/etc/passwd")])
def test_an_archive_cannot_write_outside_of_the_models(served: tuple[Path, str], tmp_path: Path, name: str, link: str) -> None:
    directory, url = served
    with tarfile.open(directory / "models.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        if link:
            member.type, member.linkname = tarfile.SYMTYPE, link
        tar.addfile(member, BytesIO())
    done = fetched(directory / "models.tar", url, tmp_path / "models")
    assert done.returncode == 1 and f"holds {name!r}; files and directories below" in done.stderr
    assert {path.name for path in (tmp_path / "models").iterdir()} <= {".archive"} and not (tmp_path / "escaped").exists()


def test_a_bucket_is_copied_with_the_very_command_of_the_init_container(tmp_path: Path, model_repository: Path) -> None:
    """From an S3 server of rclone's own, with keys as a Secret would bring them."""
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if rclone is None:
        message = "no rclone here: it comes with requirements/test.lock; copying from a bucket was NOT tested"
        missing(message)
    fetching = container("cpu+repository-s3", "Deployment", "triton", "fetch-models")
    settings = environment("cpu+repository-s3", fetching)
    bucket, models, port = tmp_path / "buckets" / settings["MODELS_BUCKET"], tmp_path / "models", free_port()
    shutil.copytree(model_repository / "tiny-gpt2", bucket / "tiny-gpt2")
    keys = {"AWS_ACCESS_KEY_ID": "an-access-key-id", "AWS_SECRET_ACCESS_KEY": "a-secret-access-key"}
    serve = [rclone, "serve", "s3", f"--auth-key={','.join(keys.values())}", f"--addr=127.0.0.1:{port}", tmp_path / "buckets"]
    here = {"RCLONE_S3_PROVIDER": "Other", "RCLONE_S3_ENDPOINT": f"http://127.0.0.1:{port}"}
    command = [argument.replace("$(MODELS_BUCKET)", settings["MODELS_BUCKET"]) for argument in fetching["args"]]
    command = [rclone, *(str(models) if argument == "/models" else argument for argument in command)]
    server = subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        done = subprocess.run(command, env=settings | here | keys, capture_output=True, text=True, timeout=60)
    finally:
        server.terminate()
        server.wait(20)
    assert done.returncode == 0, done.stderr
    original = {path.relative_to(bucket): path.read_bytes() for path in bucket.rglob("*") if path.is_file()}
    assert original == {path.relative_to(models): path.read_bytes() for path in models.rglob("*") if path.is_file()}
