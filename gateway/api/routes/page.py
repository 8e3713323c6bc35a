"""The web page at ``/`` and its files. It loads nothing from other hosts and runs no inline script."""

import mimetypes
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from gateway.api.routes.models import READ

STATIC = Path(__file__).parents[2] / "static"
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; manifest-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a new version shows immediately; unchanged files cost a 304
    "Accept-Ranges": "none",  # see `whole`
}

mimetypes.add_type("application/manifest+json", ".webmanifest")  # Python does not know it

router = APIRouter()


def whole(scope: Scope) -> Scope:
    """Removes the Range header from a request: Starlette answers an invalid Range in plain text."""
    return {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"range"]}


class File(FileResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(whole(scope), receive, send)


class _Files(StaticFiles):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(whole(scope), receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(SECURITY_HEADERS)
        return response


router.mount("/static", _Files(directory=STATIC))


@router.api_route("/", methods=READ)
async def page() -> File:
    return File(STATIC / "index.html", headers=SECURITY_HEADERS)
