"""Finds the Tritons behind a gateway. TRITON_URL names one or more, and each name may have several addresses."""

import asyncio
import logging
import re
import socket
import time

from gateway.errors import BackendUnavailable, TidegateError
from gateway.settings import SettingsError
from gateway.triton.client import TritonClient

logger = logging.getLogger(__name__)

URL = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")


def parse_urls(text: str) -> list[tuple[str, int]]:
    """Hosts and ports of a comma-separated list. Raises SettingsError."""
    urls = []
    for url in filter(None, map(str.strip, text.split(","))):
        match = URL.fullmatch(url)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise SettingsError(f"TRITON_URL has {url[:80]!r}; it must be host:port, or several of them separated by commas.")
        urls.append((match["host"].strip("[]"), int(match["port"])))
    if not urls:
        raise SettingsError(f"TRITON_URL is {text[:80]!r}; it must be host:port, or several of them separated by commas.")
    return urls


class TritonDiscovery:
    """Holds a client for every address. Use as an async context manager; `refresh` updates it."""

    def __init__(self, urls: str, step_timeout: float) -> None:
        self.clients: dict[str, TritonClient] = {}  # by address
        self._step_timeout = step_timeout
        self._odd: set[str] = set()  # addresses where something other than a usable Triton answers
        self._addresses: dict[tuple[str, int], set[str]] = {url: set() for url in parse_urls(urls)}

    async def __aenter__(self) -> "TritonDiscovery":
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(client.close() for client in self.clients.values()))

    async def refresh(self) -> dict[str, TritonClient]:
        """Resolves the names again. Returns the clients of addresses that are gone, for the caller to close.

        A name that cannot be resolved keeps its previous addresses.
        """
        for (host, port), before in self._addresses.items():
            try:
                self._addresses[host, port] = await _addresses(host, port)
            except (OSError, UnicodeError) as exc:  # UnicodeError: not a valid host name
                if before:
                    logger.warning("%s cannot be looked up (%s): its last addresses stay", host, exc)
        current = set().union(*self._addresses.values())
        for address in sorted(current - self.clients.keys()):
            self.clients[address] = TritonClient(address, self._step_timeout)
        return {address: self.clients.pop(address) for address in self.clients.keys() - current}

    async def models(self) -> dict[str, list[tuple[str, int]]]:
        """The models each Triton has loaded, by address. Tritons that do not answer are left out."""
        clients = list(self.clients.items())
        answers = await asyncio.gather(*(client.models() for _, client in clients), return_exceptions=True)
        reached = {}
        for (address, _), answer in zip(clients, answers, strict=True):
            if isinstance(answer, list):
                reached[address] = answer
            elif not isinstance(answer, TidegateError):
                raise answer
            elif address not in self._odd and not isinstance(answer, BackendUnavailable):
                logger.error("What answers at %s is no Triton that serves us", address, exc_info=answer)
                self._odd.add(address)
        return reached

    async def wait_for_models(self, timeout: float) -> list[str]:
        """Waits until a Triton has a model, then returns all names. Raises BackendUnavailable after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            await self.refresh()
            if names := {name for models in (await self.models()).values() for name, _ in models}:
                return sorted(names)
            if time.monotonic() > deadline:
                raise BackendUnavailable(f"no Triton with a model answered within {timeout:.0f} seconds")
            await asyncio.sleep(0.2)


async def _addresses(host: str, port: int) -> set[str]:
    """All of a name's IPv4 addresses, or its IPv6 addresses if it has no IPv4. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    by_family = {family: {str(address[0]) for kind, *_, address in found if kind == family} for family, *_ in found}
    if socket.AF_INET in by_family:
        return {f"{address}:{port}" for address in by_family[socket.AF_INET]}
    return {f"[{address}]:{port}" for address in by_family.get(socket.AF_INET6, ())}
