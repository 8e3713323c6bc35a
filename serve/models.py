"""`tidegate models` and `tidegate remove`: what is in the model repository, and which servers serve it."""

import os
from pathlib import Path
from typing import Any

from export.repository import Repository, RepositoryError
from gateway.command_line import columns
from gateway.misspelt import did_you_mean
from gateway.settings import SettingsError
from serve import servers
from serve.settings import Settings
from serve.supervisor import ask_health

TITLES = ["NAME", "VERSIONS", "PRECISION", "CONTEXT", "SIZE", "CHECKPOINT", "SERVED AT"]


def show() -> str | None:
    """Prints the models. Returns an error message if the settings are invalid."""
    try:
        repository = Repository(Settings.from_environment(os.environ).model_repository)
    except SettingsError as error:
        return f"tidegate: {error}"
    names = repository.models()
    if not names:
        print(f"No model in {repository.path} yet: `tidegate export CHECKPOINT` or `tidegate serve CHECKPOINT` puts one there.")
        return None
    served = {server.url: ask_health(server.url)[1] for server in servers.running(repository.path)}
    print(columns([TITLES, *(_row(repository, name, served) for name in names)]))
    return None


def remove(name: str) -> str | None:
    """Deletes the model. Returns an error message if that is not possible."""
    try:
        settings = Settings.from_environment(os.environ)
        repository = Repository(settings.model_repository)
        if problem := _not_removable(repository, name):
            return f"tidegate: {problem}"
        with repository.lock():
            size, versions = _size(repository.path / name), len(repository.versions(name))
            repository.remove(name)
    except (SettingsError, RepositoryError) as error:
        return f"tidegate: {error}"
    what = f"{versions} {'version' if versions == 1 else 'versions'}"
    print(f"Removed {name} ({what}): {_shown(size)} freed in {repository.path}")
    for server in servers.running(repository.path):
        if server.serves(name):
            print(f"The server at {server.url} drops it within seconds")
            server.drop(name)
    return None


def _not_removable(repository: Repository, name: str) -> str | None:
    names = repository.models()
    if name not in names:
        has = f"it has {', '.join(names)}{did_you_mean(name, names)}" if names else "it is empty"
        return f"there is no model {name!r} in {repository.path}: {has}"
    for server in servers.running(repository.path):
        if server.model == name:
            return f"{name} is what the server at {server.url} was started for: stop that first (process {server.process})"
    return None


def _row(repository: Repository, name: str, served: dict[str, dict[str, Any]]) -> list[str]:
    versions = repository.versions(name)
    facts = repository.card_of(name).get("parameters", {})
    return [
        name,
        ", ".join(map(str, versions)) or "-",
        facts.get("precision", "-"),
        facts.get("context_length", "-"),
        _shown(_size(repository.path / name)),
        facts.get("checkpoint", "-"),
        ", ".join(f"{url} (version {models[name]['version']})" for url, models in served.items() if name in models) or "-",
    ]


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _shown(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"
