"""Reads a checkpoint's own configuration. Every number is validated before it is used."""

from collections.abc import Mapping
from typing import Any

from export.checkpoint import Architecture, CheckpointError, shown

LAYERS, SIZE = 1024, 1 << 24  # far above any supported model: more means a broken or hostile file


def whole(settings: Mapping[str, Any], key: str, default: int | None = None, limit: int = SIZE) -> int:
    """An integer of at least 1. Raises CheckpointError otherwise."""
    value = settings.get(key)
    if value is None:
        value = default
    if value is None:
        raise CheckpointError(f"its configuration lacks {key}")
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
        raise CheckpointError(f"its configuration says {key} = {shown(value)}, allowed are 1 to {limit}")
    return value


def real(settings: Mapping[str, Any], key: str, default: float) -> float:
    """A positive number. Raises CheckpointError otherwise."""
    value = settings.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise CheckpointError(f"its configuration says {key} = {shown(value)}, allowed are positive numbers")
    return float(value)


def demand(settings: Mapping[str, Any], key: str, *allowed: Any) -> None:
    """Rejects a setting that asks for an unimplemented computation. An absent setting has its default."""
    if key in settings and settings[key] not in allowed:
        served = " or ".join(map(repr, allowed))
        asked = f"{key} = {shown(settings[key])}"
        raise CheckpointError(f"its configuration says {asked}, which is not implemented; served is {served}")


def checked(architecture: Architecture) -> Architecture:
    """Returns the architecture if its head counts and sizes are consistent. Raises CheckpointError otherwise."""
    if architecture.heads % architecture.kv_heads:
        raise CheckpointError(f"its {architecture.heads} heads do not share {architecture.kv_heads} key-value heads evenly")
    if architecture.head_dim % 2 and architecture.rotary:
        raise CheckpointError(f"its head size {architecture.head_dim} is odd, which rotary positions cannot turn")
    return architecture


def head_dim(width: int, heads: int) -> int:
    if width % heads:
        raise CheckpointError(f"its width {width} is not a multiple of its {heads} heads")
    return width // heads
