"""The gateway as an ASGI application. Run it with `python -m gateway`: only that uses gateway/http/protocol.py for HTTP."""

import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from gateway.api.routes import chat, completions, docs, generate, health, messages, metrics, models, page, responses, tokenize
from gateway.engine.registry import Registry
from gateway.http import error_responses
from gateway.http.auth import KeyRing
from gateway.http.body import LargeBodies
from gateway.http.rate_limits import RATE_LIMIT_HEADERS
from gateway.http.request_log import RequestLog
from gateway.http.uploads import Uploads
from gateway.settings import Settings
from gateway.telemetry import tracing
from gateway.telemetry.logs import configure_logging
from gateway.telemetry.metrics import Metrics
from gateway.text.fair_executor import FairExecutor, FairExecutorBySize
from gateway.triton.discovery import TritonDiscovery

PATIENCE = 3.0  # seconds that a large prompt or a grammar waits for others of its key; keeps the answer within five seconds
EXPOSED_HEADERS = ["X-Request-Id", "Retry-After", *RATE_LIMIT_HEADERS]  # readable by pages of other origins


def create_app(settings: Settings | None = None) -> FastAPI:
    """Raises SettingsError immediately if the environment has a bad value. Startup waits until Triton has described a model."""
    settings = settings or Settings.from_environment(os.environ)
    # /openapi.json is our own document: FastAPI knows neither our request bodies nor our errors.
    app = FastAPI(title="Tidegate", lifespan=_lifespan, openapi_url=None, redirect_slashes=False)
    app.state.settings = settings
    app.state.keys = KeyRing(settings)
    app.state.metrics = Metrics(lambda: app.state.registry.all_engines(), settings.max_waiting)
    app.state.tracing = tracing.start(settings)
    app.state.large_bodies = LargeBodies()
    # Trying a grammar takes up to a second, in the model's own processes.
    app.state.compiling = FairExecutor("grammar", workers=8, share=1, patience=PATIENCE)
    app.state.tokenizing = FairExecutorBySize(
        "prompt",
        patience=settings.queue_timeout,
        patience_of_large=PATIENCE,
        most_waiting=settings.max_waiting,
    )
    app.state.uploads = Uploads()
    configure_logging(settings.log_format)
    _add_middleware(app, settings)
    for module in (generate, chat, completions, responses, messages, tokenize, models, health, metrics, docs, page):
        app.include_router(module.router)
    return app


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """The last one added is the outermost. So every response gets a request id, and unexpected errors get CORS headers too."""
    error_responses.install(app)
    if settings.cors_origins:
        # All origins by default: browsers never add API keys by themselves, so a foreign page gains nothing from a visitor.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
            max_age=86400,
            allow_private_network=True,  # a public page may call a gateway in the visitor's own network
        )
    app.add_middleware(RequestLog, metrics=app.state.metrics, tracing=app.state.tracing)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    async with (
        tracing.sent_at_the_end(app.state.tracing),
        TritonDiscovery(settings.triton_url, settings.recovery_timeout) as tritons,
        Registry(tritons, settings, app.state.metrics.steps.measured) as app.state.registry,
    ):
        gc.collect()
        gc.freeze()  # long-lived objects: collecting them paused every stream for tens of milliseconds
        yield
