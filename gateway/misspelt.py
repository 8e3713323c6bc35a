"""Did you mean …? Finds names similar to a known one. Standard library only."""

import difflib
from collections.abc import Iterable, Mapping

CLOSE = 0.88  # of difflib's ratio: one slip in nine letters, two in fifteen; HF_API_KEY is not MY_API_KEY
LONG_ENOUGH = 9  # letters; a shorter name with one slip is too often a different name: SLOTS and NSLOTS, MODELS and MODEL


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or "" if nothing is similar."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def misspelt(environment: Mapping[str, str], known: Iterable[str]) -> tuple[str, str] | None:
    """A set variable that is surely a misspelt setting, and that setting. None if in doubt: a shell has many variables."""
    settings = set(known)
    for name in environment.keys() - settings:
        if environment[name].strip() and (meant := _meant(name, settings)):
            return name, meant
    return None


def _meant(name: str, settings: set[str]) -> str | None:
    swapped = {name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in range(len(name) - 1)}
    if one := swapped & settings:  # PROT
        return one.pop()
    long = [
        setting
        for setting in settings
        if len(setting) >= LONG_ENOUGH
        and setting not in name  # MODEL_NAME_2 belongs to another program
        and not setting.startswith("OTEL_")  # OpenTelemetry itself has many names like ours
    ]
    return next(iter(difflib.get_close_matches(name.upper(), long, n=1, cutoff=CLOSE)), None)
