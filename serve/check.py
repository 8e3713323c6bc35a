"""`tidegate check`: what a start would need and find here, without starting anything. Standard library only."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from export.demonstration import demonstration_checkpoint
from export.repository import Repository
from gateway.settings import DEFAULT_API_KEY, SettingsError
from serve import preflight, python_facts
from serve.paths import IS_CLONE, RUN
from serve.preflight import PreflightError
from serve.settings import Settings

PACKAGES = {"gateway": ("fastapi", "uvicorn", "tokenizers"), "export": ("onnx", "tokenizers"), "Triton": ("onnxruntime",)}
Finding = tuple[str, bool, str]  # what was checked, whether a start can use it, what was found


def check() -> int:
    """Prints the findings. Returns the exit status: 1 if a start would fail."""
    failed = 0
    for name, good, found in findings():
        failed += not good
        print(f"{'ok ' if good else 'NO '} {name:18} {found}", flush=True)
    print(f"\n{failed} of these would stop a start." if failed else "\nA start finds what it needs.")
    return bool(failed)


def findings() -> Iterator[Finding]:
    facts = python_facts.facts()
    yield _platform(facts)
    yield _python(facts)
    yield _packages()
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        yield "settings", False, str(error)
        return
    yield "settings", True, "every one is valid"
    gateway = settings.gateway
    yield _tried("port", f"{gateway.port} on {gateway.host}", preflight.check_port, gateway.host, gateway.port)
    yield _key(settings)
    if not settings.own_triton:
        yield "Triton", True, f"one at {gateway.triton_url} is used; this does not ask whether it answers"
        return
    yield _memory()
    yield _tried("/dev/shm", _free(preflight.SHARED_MEMORY), preflight.check_shared_memory, preflight.SHARED_MEMORY)
    yield _tried("run files", f"{RUN}, {_free(RUN)}", preflight.check_directory, RUN)
    yield _repository(settings)
    yield _tried("other models", ", ".join(settings.models) or "none", preflight.check_models, settings)
    yield _checkpoint(settings)


def _platform(facts: python_facts.Facts) -> Finding:
    problems = python_facts.platform_problems(facts)
    glibc = ".".join(map(str, facts.glibc))
    return "platform", not problems, "; ".join(problems) or f"{facts.system} {facts.architecture}, glibc {glibc}"


def _python(facts: python_facts.Facts) -> Finding:
    # Only the set-up of a clone makes virtual environments, with the Python that it finds.
    problems = python_facts.python_problems(facts if IS_CLONE else facts._replace(has_venv=True))
    return "Python", not problems, "; ".join(problems) or f"{'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})"


def _packages() -> Finding:
    lacking = [name for names in PACKAGES.values() for name in names if importlib.util.find_spec(name) is None]
    way_out = "`make setup` installs them" if IS_CLONE else "install Tidegate again: `pip install` or `uv tool install`"
    return "packages", not lacking, f"missing: {', '.join(dict.fromkeys(lacking))}; {way_out}" if lacking else "installed"


def _key(settings: Settings) -> Finding:
    if settings.gateway.my_api_key == DEFAULT_API_KEY:
        return "key", True, f"the public {DEFAULT_API_KEY}: set MY_API_KEY before strangers reach it"
    return "key", True, "your own" if settings.gateway.my_api_key else f"those of {settings.gateway.api_keys_file}"


def _memory() -> Finding:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    sizes = {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines}
    free, total = (sizes[name] / 2**30 for name in ("MemAvailable", "MemTotal"))
    return "memory", True, f"{free:.1f} of {total:.1f} GiB are free; {os.cpu_count()} processors"


def _repository(settings: Settings) -> Finding:
    repository = settings.model_repository
    names = Repository(repository).models()
    found = f"{repository}, {_free(repository)}; {len(names)} models{': ' + ', '.join(names) if names else ''}"
    return _tried("model repository", found, preflight.check_directory, repository)


def _checkpoint(settings: Settings) -> Finding:
    name = settings.gateway.model_name
    if settings.checkpoint:
        return "checkpoint", True, f"{settings.checkpoint}, served as {settings.model_name(settings.checkpoint)}"
    if name in Repository(settings.model_repository).models():
        return "checkpoint", True, f"none is named; {name} is in the model repository"
    try:
        return "checkpoint", True, f"the demonstration model, {demonstration_checkpoint().name}"
    except FileNotFoundError as error:
        found = str(error) if IS_CLONE else "the demonstration model, which the first start installs"
        return "checkpoint", not IS_CLONE, found


def _tried(name: str, found: str, attempt: Callable[..., None], *arguments: object) -> Finding:
    try:
        attempt(*arguments)
    except PreflightError as error:
        return name, False, str(error)
    return name, True, found


def _free(directory: Path) -> str:
    there = next(parent for parent in (directory, *directory.parents) if parent.exists())
    return f"{shutil.disk_usage(there).free / 1e9:,.1f} GB free"
