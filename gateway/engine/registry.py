"""The served models: an engine for each, kept in sync with what the Tritons have loaded.

A task polls the Tritons every few seconds. The newest version of a model takes all new requests, on any Triton that has it. An
older version stays until its running requests are done. If no Triton has a version any longer, its requests end with an error
that says so. A Triton that is silent, or briefly lacks a model, changes nothing: a restart looks the same.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.engine.engine import Engine
from gateway.engine.step import Backend
from gateway.errors import BackendUnavailable, ModelNotFound, echo
from gateway.settings import Settings, SettingsError
from gateway.text.model import Model
from gateway.triton.discovery import TritonDiscovery

logger = logging.getLogger(__name__)

DEFAULT_MODEL_ALIAS = "latest_checkpoint.pt"  # always the default model, on every deployment
LOOK_INTERVAL = 2.0  # seconds
LOOK_AGAIN = 0.2  # seconds, during startup
GONE_AFTER = 5.0  # seconds; a version is gone if all of a Triton's answers, at least two, lack it for this long
LINGER = 10.0  # seconds that an idle older version is kept: a request may have picked it but not started

Key = tuple[str, int]  # name and version
Measured = Callable[[Backend, str], Backend]


@dataclass
class _Served:
    engine: Engine
    missing_since: dict[str, float] = field(default_factory=dict)  # Triton's address → first answer in a row without it
    superseded_at: float | None = None  # when a newer version took over
    alone_since: float | None = None  # since when it has no Triton

    @property
    def is_leaving(self) -> bool:
        return bool(self.missing_since) and self.engine.addresses <= self.missing_since.keys()


class Registry:
    """Use as an async context manager; entering it waits for a Triton and its models."""

    def __init__(
        self, tritons: TritonDiscovery, settings: Settings, measured: Measured = lambda backend, model: backend
    ) -> None:
        """``measured`` wraps each Triton's client for one model: see gateway/telemetry/step_metrics.py."""
        self._tritons = tritons
        self._settings = settings
        self._measured = measured
        self._served: dict[Key, _Served] = {}
        self._newest: dict[str, int] = {}  # the version of each model that takes new requests
        self._first = ""  # the default model if MODEL_NAME is not set
        self._refused: set[tuple[str, Key]] = set()  # loaded, but not a model we can serve
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Registry":
        """Raises SettingsError if MODEL_NAME is not served, BackendUnavailable if no Triton answers."""
        deadline = time.monotonic() + self._settings.recovery_timeout
        names = await self._tritons.wait_for_models(self._settings.recovery_timeout)
        await self.look()
        while self.default_name not in self._newest and self._may_come(names):  # listed, but Triton was too busy to describe it
            if time.monotonic() > deadline:
                raise BackendUnavailable(f"no Triton described its models within {self._settings.recovery_timeout} seconds")
            await asyncio.sleep(LOOK_AGAIN)
            await self.look()
        if self.default_name not in self._newest:
            wanted = "MODEL_NAME is " + repr(self.default_name) if self.default_name else "Triton serves no model of ours"
            raise SettingsError(f"{wanted}; Triton at {self._settings.triton_url} serves: {', '.join(names)}.")
        self._task = asyncio.create_task(self._watch(), name="registry")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for engine in self.all_engines():
            await _close(engine, "The server is stopping.")

    @property
    def default_name(self) -> str:
        """MODEL_NAME, or else the first model by name, which stays the default as long as it is served."""
        return self._settings.model_name or self._first

    def engine(self, name: str | None = None, *, visible: Callable[[str], bool] = lambda name: True) -> Engine:
        """The newest version of a model; None and the alias mean the default model.

        Raises ModelNotFound, which lists the ``visible`` models.
        """
        wanted = self.default_name if name is None or name == DEFAULT_MODEL_ALIAS else name
        if wanted not in self._newest:
            there_are = ", ".join(sorted(filter(visible, self._newest))) or "none"
            raise ModelNotFound(f"There is no model {echo(wanted)}; the models here: {there_are}.", param="model")
        return self._served[wanted, self._newest[wanted]].engine

    def engines(self) -> list[Engine]:
        """The newest version of every model, by name."""
        return [self._served[key].engine for key in sorted(self._newest.items())]

    def lasting_engines(self) -> list[Engine]:
        """Like `engines`, without models that every Triton has unloaded and that are about to go. The default model stays."""
        served = [(name, self._served[name, version]) for name, version in sorted(self._newest.items())]
        return [one.engine for name, one in served if name == self.default_name or not one.is_leaving]

    def all_engines(self) -> list[Engine]:
        """Includes older versions that still finish their requests; by name and version."""
        return [self._served[key].engine for key in sorted(self._served)]

    @property
    def alive(self) -> bool:
        """Whether its loop is running. It always should be."""
        return self._task is None or not self._task.done()

    def _may_come(self, names: list[str]) -> bool:
        """Whether ``names`` has the default model, or any model if there is no default yet, that has not been refused."""
        refused = {name for _, (name, _) in self._refused}
        return bool({self.default_name or name for name in names} & (set(names) - refused))

    def end_sequences(self, error: BackendUnavailable) -> None:
        for engine in self.all_engines():
            engine.end_sequences(error)

    async def look(self) -> None:
        """Syncs with what the Tritons have loaded. A Triton that does not answer changes nothing."""
        for address, client in (await self._tritons.refresh()).items():
            for served in self._served.values():
                if address in served.engine.addresses:
                    await served.engine.remove_replica(address)
            await client.close()
        loaded = await self._tritons.models()
        newest: dict[str, int] = {}
        for name, version in sorted(key for keys in loaded.values() for key in keys):
            newest[name] = version
        for address, keys in loaded.items():
            for key in keys:
                if key in self._served or newest[key[0]] == key[1]:
                    await self._join(address, key)
        self._newest |= {name: version for name, version in newest.items() if (name, version) in self._served}
        await self._drop({address: set(keys) for address, keys in loaded.items()})
        if self._first not in self._newest:
            self._first = min(self._newest, default=self._first)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            try:
                await self.look()
            except Exception:
                logger.exception("the look at Triton's models met an unexpected error")

    async def _join(self, address: str, key: Key) -> None:
        """Makes a version's engine run on this Triton too. If Triton does not answer, the next `look` tries again."""
        served = self._served.get(key)
        try:
            if served is not None and address in served.engine.addresses:
                await self._check_replaced(address, key, served.engine)
            elif (address, key) not in self._refused:
                await self._start(address, key, await self._tritons.clients[address].describe(key[0], str(key[1])))
        except BackendUnavailable:
            return
        except Exception as exc:
            logger.error("%s, version %d, does not describe itself as our models do: not served", *key, exc_info=exc)
            self._refused.add((address, key))

    async def _start(self, address: str, key: Key, model: Model) -> None:
        served, replaced = self._served.get(key), None
        if served is not None and served.engine.model.fingerprint != model.fingerprint:
            if served.engine.addresses:
                logger.warning("%s, version %d, is another one at %s: not served from there", *key, address)
                return
            served, replaced = None, served
        if served is None:
            served = self._served[key] = _Served(Engine(model, self._settings))
            model.start()
            logger.info("%s, version %d, is served", *key)
        served.engine.add_replica(address, self._measured(self._tritons.clients[address], model.name), model)
        if replaced is not None:  # only now: clients that are asked to try again do so at once
            await _end(replaced.engine, "was replaced. Please try again.")

    async def _check_replaced(self, address: str, key: Key, engine: Engine) -> None:
        """If Triton has loaded different files under the same version, its sequences move to Tritons that have the old files,
        or end. Our exporter never does that, but a person may."""
        if await self._tritons.clients[address].fingerprint(engine.model) != engine.model.fingerprint:
            await engine.remove_replica(address)
            await self._start(address, key, await self._tritons.clients[address].describe(key[0], str(key[1])))

    async def _drop(self, loaded: dict[str, set[Key]]) -> None:
        """Ends versions that no Triton has any longer, and older versions that are idle."""
        now = time.monotonic()
        self._refused = {(address, key) for address, key in self._refused if key in loaded.get(address, {key})}
        for key, served in list(self._served.items()):
            unloaded = False
            for address in served.engine.addresses:
                if address not in loaded or key in loaded[address]:
                    served.missing_since.pop(address, None)
                elif now - served.missing_since.setdefault(address, now) >= GONE_AFTER:
                    del served.missing_since[address]
                    await served.engine.remove_replica(address)
                    unloaded = True
            served.alone_since = None if served.engine.addresses else served.alone_since or now
            alone = now - (served.alone_since or now) >= self._settings.recovery_timeout  # its sequences waited that long
            newest = self._newest.get(key[0]) == key[1]
            served.superseded_at = None if newest else served.superseded_at or now
            rests = served.engine.idle and now - (served.superseded_at or now) >= LINGER
            if rests or alone or (unloaded and not served.engine.addresses):
                del self._served[key]
                if newest:
                    del self._newest[key[0]]
                await _end(served.engine, "was removed." if newest else "was replaced. Please try again.")


async def _end(engine: Engine, reason: str) -> None:
    """Closes the engine of a model that is served no longer."""
    await _close(engine, f"The model {engine.model.name} {reason}")
    logger.info("%s, version %s, is no longer served", engine.model.name, engine.model.version)


async def _close(engine: Engine, message: str) -> None:
    """Closes an engine and its model. Its remaining sequences end with an error that says ``message``."""
    await engine.close(BackendUnavailable(message, retry_after=2))
    await asyncio.to_thread(engine.model.close)
