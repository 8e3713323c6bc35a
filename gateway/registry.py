"""Which models are served: an engine for each, kept in step with what Triton has loaded.

A task asks Triton every few seconds. The newest ready version of a model takes every new text. An older one lives on until the
texts that it has begun are done. A version that Triton has dropped ends its texts with an error that says so; silence, or an
answer that lacks a model for a moment, changes nothing, since a Triton that starts again is silent too.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.body import echo
from gateway.engine import Engine
from gateway.errors import BackendUnavailable, ModelNotFound
from gateway.settings import Settings, SettingsError
from gateway.triton import TritonClient

logger = logging.getLogger(__name__)

DEFAULT_MODEL_ALIAS = "latest_checkpoint.pt"  # always the default model, on every deployment
LOOK_INTERVAL = 2.0  # seconds
GONE_AFTER = 5.0  # seconds for which all of Triton's answers, of two at least, lack a version that is gone then
LINGER = 10.0  # seconds that an older version without texts is kept: a request may have chosen it and not have begun

Key = tuple[str, int]  # name and version


@dataclass
class _Served:
    engine: Engine
    missing_since: float | None = None  # time of Triton's first answer of those in a row that lack it
    superseded_at: float | None = None  # when a newer version took over


class Registry:
    """Use as an async context manager; entering it waits for Triton and its models."""

    def __init__(self, triton: TritonClient, settings: Settings) -> None:
        self._triton = triton
        self._settings = settings
        self._served: dict[Key, _Served] = {}
        self._newest: dict[str, int] = {}  # the version of each model that takes new texts
        self._first = ""  # the default model where MODEL_NAME is not set
        self._refused: set[Key] = set()  # loaded, but nothing that we could serve
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Registry":
        """Raises SettingsError where MODEL_NAME is not served, BackendUnavailable where no Triton answers."""
        names = [name for name, _ in await self._triton.wait_for_models(self._settings.recovery_timeout)]
        await self.look()
        if self.default_name not in self._newest:
            wanted = "MODEL_NAME is " + repr(self.default_name) if self.default_name else "Triton serves no model of ours"
            raise SettingsError(f"{wanted}; Triton at {self._settings.triton_url} serves: {', '.join(dict.fromkeys(names))}.")
        self._task = asyncio.create_task(self._watch(), name="registry")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for engine in self.all_engines():
            await engine.close()

    @property
    def default_name(self) -> str:
        """MODEL_NAME, else the first model: it stays the same for as long as it is served."""
        return self._settings.model_name or self._first

    def engine(self, name: str | None = None, *, told: Callable[[str], bool] = lambda name: True) -> Engine:
        """The newest version of a model; None and the alias mean the default model.

        Raises ModelNotFound, which names those that there are and that ``told`` lets be named.
        """
        wanted = self.default_name if name is None or name == DEFAULT_MODEL_ALIAS else name
        if wanted not in self._newest:
            there_are = ", ".join(sorted(filter(told, self._newest))) or "none"
            raise ModelNotFound(f"There is no model {echo(wanted)}; the models here: {there_are}.", param="model")
        return self._served[wanted, self._newest[wanted]].engine

    def engines(self) -> list[Engine]:
        """The newest version of every model, by name."""
        return [self._served[key].engine for key in sorted(self._newest.items())]

    def all_engines(self) -> list[Engine]:
        """Older versions that still finish their texts too; by name and version."""
        return [self._served[key].engine for key in sorted(self._served)]

    def end_texts(self, error: BackendUnavailable) -> None:
        for engine in self.all_engines():
            engine.end_texts(error)

    async def look(self) -> None:
        """Takes over what Triton has loaded. Raises BackendUnavailable where it cannot be asked, and then nothing changes."""
        loaded = await self._triton.models()
        newest = dict(loaded)  # they come in ascending order: of each name the newest stays
        for name, version in loaded:
            known = (name, version) in self._served
            if await self._replaced((name, version)) if known else newest[name] == version:
                await self._start(name, version)
        self._newest |= dict(key for key in loaded if key in self._served)
        await self._drop(set(loaded))
        if self._first not in self._newest:
            self._first = min(self._newest, default=self._first)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            try:
                await self.look()
            except BackendUnavailable:
                for served in self._served.values():
                    served.missing_since = None
            except Exception:
                logger.exception("the look at Triton's models met an unexpected error")

    async def _start(self, name: str, version: int) -> None:
        """Nothing happens where the model cannot be described: now, and the next look tries again, or ever."""
        if (name, version) in self._refused:
            return
        try:
            model = await self._triton.describe(name, str(version))
        except BackendUnavailable:
            return
        except Exception as exc:
            logger.error("%s, version %d, does not describe itself as our models do: not served", name, version, exc_info=exc)
            self._refused.add((name, version))
            return
        engine = Engine(self._triton, model, self._settings)
        await engine.start()
        before = self._served.get((name, version))
        self._served[name, version] = _Served(engine)
        logger.info("%s, version %d, is served", name, version)
        if before:
            await _end(before.engine, "was replaced. Please try again.")

    async def _replaced(self, key: Key) -> bool:
        """Whether Triton has loaded other files under the same version. Our exporter never makes that; a person may."""
        model = self._served[key].engine.model
        try:
            return await self._triton.fingerprint(model) != model.fingerprint
        except BackendUnavailable:
            return False

    async def _drop(self, loaded: set[Key]) -> None:
        """Ends what Triton has no longer, and what is old and has nothing to do."""
        now = time.monotonic()
        self._refused &= loaded
        for key, served in list(self._served.items()):
            name, version = key
            newest = self._newest.get(name) == version
            served.missing_since = None if key in loaded else served.missing_since or now
            served.superseded_at = None if newest else served.superseded_at or now
            gone = now - (served.missing_since or now) >= GONE_AFTER
            if gone or (served.engine.idle and now - (served.superseded_at or now) >= LINGER):
                del self._served[key]
                if newest:
                    del self._newest[name]
                await _end(served.engine, "was removed." if newest else "was replaced. Please try again.")


async def _end(engine: Engine, reason: str) -> None:
    """Its texts, where it has any, end with an error of this reason."""
    engine.end_texts(BackendUnavailable(f"The model {engine.model.name} {reason}", retry_after=2))
    await engine.close()
    logger.info("%s, version %s, is no longer served", engine.model.name, engine.model.version)
