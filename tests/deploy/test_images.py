"""The shipped images: what is in them, what is not, how large they are; and the Dockerfiles they are made from."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.deploy.engine import GPU_FILES, PYTHON_IMAGE, ROOT, TRITON_IMAGE, Engine, configuration, program

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
MEGABYTE = 10**6
BASES = {"gateway": PYTHON_IMAGE, "triton": TRITON_IMAGE, "export": PYTHON_IMAGE}
LARGEST = {"gateway": 200, "triton": 200, "triton for a GPU": 600, "export": 400}  # megabytes beyond the base


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    done = subprocess.run([program("hadolint"), str(dockerfile)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_everything_that_is_installed_is_locked_by_hash_but_torch(dockerfile: Path) -> None:
    """torch's build depends on the machine's own index: requirements/torch.in."""
    commands = dockerfile.read_text().replace("\\\n", " ")
    installs = re.findall(r"(?:install|\$pip) [^&|;]*-r \S+", commands)
    assert installs
    assert [line for line in installs if "--require-hashes" not in line and "torch.in" not in line] == []
    assert "apt-get" not in commands


@pytest.mark.parametrize("name", BASES)
def test_images_are_small(engine: Engine, images: dict[str, str], name: str) -> None:
    assert 0 < megabytes(engine, images[name], BASES[name]) < LARGEST[name]


def megabytes(engine: Engine, image: str, base: str) -> float:
    """Beyond the base."""
    own = (engine.inspect(image)["Size"] - engine.inspect(base)["Size"]) / MEGABYTE
    print(f"{image}: {own:.0f} MB beyond its base")
    return float(own)


@pytest.mark.parametrize("name", BASES)
def test_images_are_labelled_and_run_as_nobody_in_particular(engine: Engine, images: dict[str, str], name: str) -> None:
    told = engine.inspect(images[name])["Config"]
    labels = {label.removeprefix("org.opencontainers.image."): value for label, value in told["Labels"].items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["version"] == project["version"] == re.search(r":(\d+\.\d+\.\d+)", images[name])[1]  # type: ignore[index]
    assert {"title", "description", "licenses", "revision"} <= labels.keys()
    assert told["User"] == "10001:10001"


@pytest.mark.parametrize("name", ["gateway", "triton"])
def test_images_check_their_health_wherever_they_run(engine: Engine, images: dict[str, str], name: str) -> None:
    assert engine.inspect(images[name])["Config"]["Healthcheck"]["Test"][:2] == ["CMD", "python"]


def python(engine: Engine, image: str, code: str) -> str:
    options = ["--rm", "--network=none", "--read-only", "--cap-drop=ALL"]
    return engine.docker("run", *options, image, "python", "-c", code).strip()


def test_the_gateway_holds_its_lock_and_nothing_else(engine: Engine, images: dict[str, str]) -> None:
    told = "from importlib.metadata import distributions as d; print(*(f'{p.name.lower()}=={p.version}' for p in d()))"
    locked = re.findall(r"^(\S+==\S+)", (ROOT / "requirements" / "gateway.lock").read_text(), re.MULTILINE)
    installed = [package.replace("_", "-") for package in python(engine, images["gateway"], told).split()]
    assert sorted(installed) == sorted(locked)
    assert not {"torch", "onnxruntime", "onnx", "pip"} & {package.partition("==")[0] for package in installed}


def test_the_gateway_does_not_start_without_triton_and_says_so(engine: Engine, images: dict[str, str]) -> None:
    settings = ["--env=TRITON_URL=127.0.0.1:1", "--env=RECOVERY_TIMEOUT=1", "--env=MY_API_KEY=something-secret"]
    done = engine.run(["docker", "run", "--rm", "--network=none", *settings, images["gateway"]])
    assert done.returncode == 1
    assert "Start Triton first" in done.stderr


def test_the_gateway_does_not_start_with_the_public_key_and_says_how_to_set_one(engine: Engine, images: dict[str, str]) -> None:
    done = engine.run(["docker", "run", "--rm", "--network=none", images["gateway"]])
    assert done.returncode == 1
    assert "Set a key: MY_API_KEY=something-secret, MY_API_KEY_FILE or API_KEYS_FILE" in done.stderr


def test_triton_says_what_it_lacks(engine: Engine, images: dict[str, str]) -> None:
    done = engine.run(["docker", "run", "--rm", "--network=none", "--shm-size=1m", images["triton"]])
    assert done.returncode == 1
    assert "/dev/shm has 1 MiB, it needs 64" in done.stderr
    assert "/models holds no model" in done.stderr


def test_the_image_for_a_gpu_says_that_there_is_none(engine: Engine, images: dict[str, str]) -> None:
    """As far as an engine without a GPU takes the GPU file: its image is built, and its container ends with a sentence."""
    triton = configuration(*GPU_FILES)["services"]["triton"]
    engine.build(triton["image"], triton["build"])
    assert 0 < megabytes(engine, triton["image"], TRITON_IMAGE) < LARGEST["triton for a GPU"]
    done = engine.run(["docker", "run", "--rm", "--network=none", "--gpus=1", "--shm-size=1g", triton["image"]])
    assert done.returncode == 1
    assert "this image computes on a GPU, and none is in this container: install NVIDIA's driver" in done.stderr


def test_nothing_of_the_checkout_but_sources_reaches_a_build(engine: Engine, tmp_path: Path) -> None:
    """No key, no checkpoint, no history: .dockerignore lets in what it names."""
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"FROM {PYTHON_IMAGE}\nCOPY . /context\n")
    engine.docker("build", f"--file={dockerfile}", "--tag=context:1", ROOT)
    listed = engine.docker("run", "--rm", "--network=none", "context:1", "find", "/context", "-type", "f").split()
    folders = {Path(path).relative_to("/context").parts[0] for path in listed}
    assert folders == {"backends", "docker", "export", "gateway", "requirements", "serve", "tidegate"}
    assert {Path(path).suffix for path in listed} & {".pt", ".pyc", ".env", ".onnx"} == set()
