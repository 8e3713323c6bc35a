"""Detects early what would make a start fail late. Standard library only."""

import errno
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from gateway.misspelt import did_you_mean
from serve.paths import COMMAND, RUN
from serve.servers import LOCK, is_held
from serve.settings import ALL, Settings

SHARED_MEMORY = Path("/dev/shm")
NEEDED_SHARED_MEMORY = 64 * 2**20  # bytes: Triton and its stub exchange data there
NEEDED_DISK = 4 * 2**20  # bytes, for logs. What an export needs is only known once it runs


class PreflightError(Exception):
    """Starting would fail. The message says why and what to do."""


def check(settings: Settings) -> None:
    """Raises PreflightError if the gateway could not listen or Triton could not run."""
    check_port(settings.gateway.host, settings.gateway.port)
    check_directory(RUN)
    if settings.own_triton:
        check_directory(settings.model_repository)
        check_models(settings)
        check_shared_memory(SHARED_MEMORY)


@contextmanager
def held(run_dir: Path, port: int) -> Iterator[None]:
    """Holds ``run_dir`` for this process. PreflightError if another has it: that one's port may not be open yet."""
    check_directory(run_dir)
    with (run_dir / LOCK).open("a+") as holder:
        try:
            _lock(holder)
        except BlockingIOError:
            holder.seek(0)
            raise PreflightError(_another_server(port, holder.read(), "0.0.0.0")) from None
        holder.truncate(0)
        holder.write(str(os.getpid()))
        holder.flush()
        yield


def _lock(holder: IO[str]) -> None:
    """Retries briefly, because serve/servers.py holds the lock while it probes. The kernel frees a dead holder's lock."""
    for _ in range(10):
        with suppress(BlockingIOError):
            return fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.02)
    fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise PreflightError(f"HOST is {host!r}, which is not an address of this machine: {error.strerror}.") from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(1)
        except OSError as error:
            raise PreflightError(_port_problem(host, port, error)) from error


def _port_problem(host: str, port: int, error: OSError) -> str:
    lock = RUN / str(port) / LOCK
    if error.errno == errno.EADDRINUSE and lock.exists() and is_held(lock):
        return _another_server(port, lock.read_text(), host)
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken by another program; choose a free one: PORT={_free_port(host)} {COMMAND}"
    if error.errno == errno.EACCES:
        return f"port {port} is reserved for root; choose one from 1024 on: PORT={_free_port(host)} {COMMAND}"
    return f"HOST is {host!r}, PORT is {port}: cannot listen there: {error.strerror}."


def _another_server(port: int, process: str, host: str) -> str:
    return (
        f"another server with PORT={port} is starting or running here (process {process}); "
        f"use another port: PORT={_free_port(host)} {COMMAND}"
    )


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def check_models(settings: Settings) -> None:
    there = sorted(config.parent.name for config in settings.model_repository.glob("*/config.pbtxt"))
    for name in settings.models:
        if name not in (*there, ALL):
            has = f"it has {', '.join(there)}{did_you_mean(name, there)}" if there else "it is empty"
            raise PreflightError(f"MODELS has {name!r}, which is not in {settings.model_repository}: {has}")


def check_directory(directory: Path) -> None:
    """Raises PreflightError unless files can be created there. Writes a probe: for root, permission bits say nothing."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(bytes(4096))
            probe.flush()
        status = os.statvfs(directory)
    except OSError as error:
        raise PreflightError(_directory_problem(directory, error)) from error
    free = status.f_bavail * status.f_frsize
    if free < NEEDED_DISK:
        need = NEEDED_DISK // 2**20
        raise PreflightError(
            f"the disk of {directory} is full ({free / 2**20:.1f} MiB free, {need} are needed): make room there"
        )


def _directory_problem(directory: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {directory} is full: make room there"
    if error.errno == errno.EROFS:
        return f"{directory} is on a file system that is mounted read-only: remount it read-write (rw)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{directory} is not writable by this user: chown -R $(id -un) {directory}, or start as its owner"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{directory} is not a directory: move that file away"
    return f"{directory} cannot be written: {error.strerror}"


def check_shared_memory(directory: Path) -> None:
    if not os.access(directory, os.W_OK):
        raise PreflightError(
            f"Triton needs {directory}, which cannot be written: mount -t tmpfs -o mode=1777 tmpfs {directory}"
        )
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if free < NEEDED_SHARED_MEMORY:
        need, have = NEEDED_SHARED_MEMORY // 2**20, free // 2**20
        raise PreflightError(
            f"Triton needs {need} MiB in {directory}, {have} are free: remove files there, or remount it: -o size=1G"
        )
