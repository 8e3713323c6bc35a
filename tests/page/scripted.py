"""A server that answers as a test tells it to, without a process: for what a real one does seldom or at the wrong moment."""

import json
from collections.abc import Callable
from typing import Any

from gateway.api.openapi import document
from gateway.api.routes.page import SECURITY_HEADERS, STATIC
from tests.page.visitor import Visitor

URL = "http://localhost:9"  # nobody listens there: everything is answered here
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}
WELL = {"status": "success", "data": {"models": {}}}


class Scripted:
    """``answers``: what the next requests for a text get, one each; the last one for good. Each is called with the route."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.models = [model("chatty", True), model("plain", False)]
        self.answers: list[Callable[[Any], Any]] = [stream(["Hello"])]
        self.bodies: list[Any] = []  # of the requests for a text
        self.others: dict[str, Callable[[Any], Any]] = {}  # by path: instead of what is below
        page.route("**/*", self._answer)

    def _answer(self, route: Any) -> None:
        path = route.request.url.removeprefix(URL)
        if path in self.others:
            self.others[path](route)
        elif path.endswith("completions"):
            self.bodies.append(route.request.post_data_json)
            (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])(route)
        elif path == "/openapi.json":
            route.fulfill(json=document())
        elif path == "/v1":
            route.fulfill(json={"default_model": self.models[0]["id"]})
        elif path == "/v1/models":
            route.fulfill(json={"object": "list", "data": self.models})
        elif path == "/tokenize":
            route.fulfill(json={"tokens": [1, 2, 3]})
        elif path == "/health":
            route.fulfill(json=WELL)
        else:
            file = STATIC / (path.removeprefix("/static/").lstrip("/") or "index.html")
            route.fulfill(path=file, headers=SECURITY_HEADERS | {"Content-Type": TYPES[file.suffix]})


def model(name: str, chat_template: bool) -> dict[str, Any]:
    return {"id": name, "context_length": 1024, "chat_template": chat_template}


def stream(texts: list[str], *, finish: str | None = "length", whole: bool = True, index: int = 0) -> Callable[[Any], Any]:
    """Tokens of one answer, on the route that was asked for. ``whole``: with [DONE]; without it the stream breaks off."""

    def answer(route: Any) -> None:
        chat = "chat" in route.request.url
        events = [_event(chat, index, text, finish if text is texts[-1] else None) for text in texts]
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + ("data: [DONE]\n\n" if whole else "")
        route.fulfill(body=body, headers={"Content-Type": "text/event-stream"})

    return answer


def _event(chat: bool, index: int, text: str, finish: str | None) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "finish_reason": finish}
    if chat:
        top = [{"bytes": list(other.encode()), "logprob": -1.0} for other in (text, "</s>")]
        choice |= {"delta": {"content": text}, "logprobs": {"content": [top[0] | {"top_logprobs": top}]}}
    else:
        logprobs = {"tokens": [text], "token_logprobs": [-1.0], "top_logprobs": [{text: -1.0, "</s>": -1.0}]}
        choice |= {"text": text, "logprobs": logprobs}
    return {"choices": [choice]}


def refuse(status: int, message: str = "No.", headers: dict[str, str] | None = None, **error: Any) -> Callable[[Any], Any]:
    told = {"error": {"message": message} | error}
    return lambda route: route.fulfill(status=status, json=told, headers=headers or {})


def hold(routes: list[Any]) -> Callable[[Any], Any]:
    """Answers nothing yet: puts the route where the test finds it."""
    return routes.append


class ScriptedVisitor(Visitor):
    def __init__(self, page: Any) -> None:
        super().__init__(page, URL)
        self.server = Scripted(page)
