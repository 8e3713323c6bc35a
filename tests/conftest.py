"""What many tests start: exported models, a real Triton, real gateways; once a run, on free ports, stopped by us."""

import fcntl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

import backends.onnx_decoder  # noqa: F401 # it turns ONNX Runtime's telemetry off
from export.repository import Repository
from testing import ROOT
from testing.gateway import Gateway
from testing.models import export
from testing.triton import Triton
from tests import tiers
from tests.export import samples

CACHE = ROOT / ".run" / "tests"  # exports are kept between runs; the exporter itself knows when they are out of date
DEMO = "smollm2-135m-instruct-q4_1"
TINY = "tiny-gpt2"
CHARACTERS = "tiny-characters"
SHARED: list[Triton] = []  # what `triton` has started


def pytest_itemcollected(item: pytest.Item) -> None:
    tiers.mark(item)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes
        items[:] = tiers.longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """In place of xdist's own groups, which this version of pytest does not let it mark."""

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return tiers.group_of(nodeid)

    return ByGroup(config, log)


@contextmanager
def one_process_at_a_time(name: str) -> Iterator[None]:
    """Among all that run these tests: what they keep in CACHE is made once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
async def one_event_loop(anyio_backend: str) -> AsyncIterator[None]:
    """Keeps one event loop for all tests that use it: gRPC's poller thread outlives a loop and then stumbles over its end."""
    yield


@pytest.fixture(scope="session")
def api_key() -> str:
    return "a_default_key_for_testing"


def version_directory(repository: Path, name: str) -> Path:
    """Of a model's newest version."""
    return repository / name / str(Repository(repository).versions(name)[-1])


@pytest.fixture(scope="session")
def model_repository() -> Path:
    """The demonstration model (int8), a tiny GPT-2 without a chat template (fp32), and a nanoGPT over characters (fp32)."""
    characters = CACHE / "characters"  # a directory of its own: nanoGPT's meta.pkl lies beside its checkpoint
    repository = CACHE / "model_repository"
    with one_process_at_a_time("exports"):
        if not characters.exists():
            characters.mkdir(parents=True)
            samples.build_nanogpt(CACHE / "tiny-gpt2.pt", block_size=1024)
            samples.nanogpt(characters / "tiny-characters.pt")
        export("--precision", "int8", repository=repository)  # whatever this machine would choose
        export(CACHE / "tiny-gpt2.pt", "--precision", "fp32", repository=repository)
        export(characters / "tiny-characters.pt", "--precision", "fp32", repository=repository)
    return repository


@pytest.fixture(scope="session")
def triton(model_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """All models, many slots. Tests that kill or fill a Triton start their own with ``start_triton``."""
    with Triton(model_repository, tmp_path_factory.mktemp("triton"), ["*"], slots=16) as server:
        SHARED.append(server)
        yield server
        SHARED.remove(server)


@pytest.fixture(autouse=True)
def shared_triton_lives() -> Iterator[None]:
    """Where it has died, the test that saw it fails, and not all that come after."""
    yield
    for server in SHARED:
        if not server.running:
            told = server.log_end()
            server.__enter__()
            pytest.fail(f"the Triton that tests share has died, and was started again:\n{told}")


@pytest.fixture
def start_triton(model_repository: Path, tmp_path: Path) -> Callable[..., Triton]:
    """``with start_triton("tiny-gpt2", slots=2) as triton: …``: a Triton of the test's own."""
    return lambda *models, slots: Triton(model_repository, tmp_path / "triton", models, slots=slots)


@contextmanager
def gateway_process(triton_address: str, log: Path, **environment: str) -> Iterator[str]:
    """A real gateway on a free port; yields its address once /health answers 200.

    Nothing runs ahead there unless ``environment`` says so: who breaks something in mid-text needs a text that takes its time.
    """
    with Gateway(triton_address, log, **{"RUN_AHEAD": "off"} | environment) as gateway:
        yield gateway.url


@pytest.fixture(scope="session")
def gateway_url(triton: Triton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway whose default model is the demonstration model."""
    with gateway_process(
        triton.grpc_address, tmp_path_factory.mktemp("gateway") / "log", MODEL_NAME=DEMO, RUN_AHEAD=""
    ) as address:
        yield address


@pytest.fixture(scope="session")
def tiny_gateway_url(triton: Triton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway whose default model is a tiny GPT-2, which has no chat template."""
    with gateway_process(
        triton.grpc_address, tmp_path_factory.mktemp("gateway") / "log", MODEL_NAME=TINY, RUN_AHEAD=""
    ) as address:
        yield address


@pytest.fixture(scope="session")
def character_gateway_url(triton: Triton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway whose default model is a nanoGPT over characters."""
    with gateway_process(
        triton.grpc_address, tmp_path_factory.mktemp("gateway") / "log", MODEL_NAME=CHARACTERS, RUN_AHEAD=""
    ) as address:
        yield address
