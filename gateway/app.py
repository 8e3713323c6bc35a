"""The gateway as an ASGI application: ``uvicorn --factory gateway.app:create_app``."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from gateway import error_responses
from gateway.engine import Engine
from gateway.routes import chat, generate, health, models, page
from gateway.settings import Settings, SettingsError
from gateway.triton import TritonClient


def create_app(settings: Settings | None = None) -> FastAPI:
    """Raises SettingsError at once where the environment holds a bad value; listens once Triton has described its models."""
    settings = settings or Settings.from_environment(os.environ)
    # No /docs: its page loads scripts from elsewhere. docs/api.md is the reference.
    app = FastAPI(title="Tidegate", lifespan=_lifespan, openapi_url=None, redirect_slashes=False)
    app.state.settings = settings
    # Any origin: keys travel in headers that no browser adds by itself, so a foreign page gains nothing from a visitor.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Retry-After"],
        max_age=86400,
    )
    error_responses.install(app)
    for module in (generate, chat, models, health, page):
        app.include_router(module.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    async with AsyncExitStack() as closing:
        triton = await closing.enter_async_context(TritonClient(settings.triton_url, settings.recovery_timeout))
        models = [await triton.describe(name) for name in await triton.wait_for_models(settings.recovery_timeout)]
        app.state.default_model = _default_model(settings, [model.name for model in models])
        app.state.engines = {model.name: Engine(triton, model, settings) for model in models}
        for engine in app.state.engines.values():
            await engine.start()
            closing.push_async_callback(engine.close)
        yield


def _default_model(settings: Settings, served: list[str]) -> str:
    if settings.model_name is None and served:
        return served[0]
    if settings.model_name is None or settings.model_name not in served:
        wanted = "Triton serves no model" if settings.model_name is None else f"MODEL_NAME is {settings.model_name!r}"
        raise SettingsError(f"{wanted}; Triton at {settings.triton_url} serves: {', '.join(served) or 'none'}.")
    return settings.model_name
