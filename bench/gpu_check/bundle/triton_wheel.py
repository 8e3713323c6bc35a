"""Of the wheel nvidia-pytriton, which holds Triton, only what serves a model with one Python."""

import shutil
from pathlib import Path

from bench.gpu_check.bundle.interpreter import VERSION, needed_libraries

LIBRARIES = "nvidia_pytriton.libs"


def prune(packages: Path) -> None:
    """Leaves the server, its Python backend, the stub of this Python, and the libraries these three load."""
    wheel = packages / "pytriton"
    triton = wheel / "tritonserver"
    stub = triton / "python_backend_stubs" / VERSION / "triton_python_backend_stub"
    used = [triton / "bin" / "tritonserver", *(triton / "backends" / "python").glob("*"), stub]
    libraries = packages / LIBRARIES
    loaded = {path.resolve() for path in needed_libraries(path for path in used if path.suffix != ".py")}
    keep = {wheel / "__init__.py", *used, *(path for path in libraries.iterdir() if path.resolve() in loaded)}
    keep |= set(libraries.glob(f"libpython*.{VERSION.partition('.')[2]}.so.*"))  # its name is looked up
    for path in [*wheel.rglob("*"), *libraries.iterdir()]:
        if not path.is_dir() and path not in keep:
            path.unlink()
    for directory in sorted(filter(Path.is_dir, wheel.rglob("*")), reverse=True):
        if not any(directory.iterdir()):
            shutil.rmtree(directory)
