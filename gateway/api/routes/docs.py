"""``/openapi.json``, and Swagger UI at ``/docs``, with its files served locally. Neither needs a key."""

from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import APIRouter
from fastapi.responses import JSONResponse

from gateway.api.openapi import document
from gateway.api.routes.models import READ
from gateway.api.routes.page import SECURITY_HEADERS, STATIC, File

SWAGGER_UI = Path(fastapi_offline.__file__).parent / "static"
SWAGGER_UI_FILES = ("swagger-ui-bundle.js", "swagger-ui.css")
# Swagger UI sets style attributes, and its style sheet and script embed icons as data URLs.
HEADERS = SECURITY_HEADERS | {
    "Content-Security-Policy": SECURITY_HEADERS["Content-Security-Policy"]
    .replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
    .replace("img-src 'self'", "img-src 'self' data:")
}

router = APIRouter()


@router.api_route("/openapi.json", methods=READ)
async def openapi() -> JSONResponse:
    described: dict[str, Any] = document()
    return JSONResponse(described)


@router.api_route("/docs", methods=READ)
async def docs() -> File:
    return File(STATIC / "docs.html", headers=HEADERS)


def _serve(name: str) -> None:
    async def file() -> File:
        return File(SWAGGER_UI / name, headers=SECURITY_HEADERS)

    router.add_api_route(f"/docs/{name}", file, methods=READ)


for _name in SWAGGER_UI_FILES:
    _serve(_name)
