"""Log configuration: every line in one format, text or JSON, with the id of its request."""

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

PLAIN = re.compile(r"[!#-<>-~]*")  # printable ASCII without space, = and "

current_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def configure_logging(log_format: str) -> None:
    """Sends all log lines of the process to standard error in one format. Of uvicorn's, only warnings and errors: our own lines
    say more about starts, stops and requests.

    May be called repeatedly, before or after uvicorn configures its own logging.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name("tidegate")
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.get_name() == handler.get_name()]:
        root.removeHandler(old)
    root.addHandler(handler)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("gateway").setLevel(logging.INFO)
    logging.captureWarnings(True)


class TextFormatter(logging.Formatter):
    """``2026-01-01T12:00:00.000Z INFO gateway.request [req_…] method=POST path=/generate status=200 …``"""

    def formatMessage(self, record: logging.LogRecord) -> str:
        request_id = current_request_id.get()
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        message = " ".join(f"{name}={_text(value)}" for name, value in fields.items()) if fields else record.message
        return f"{_time(record)} {record.levelname} {record.name} {f'[{request_id}] ' if request_id else ''}{message}"


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, logger, message, request_id if there is one, and a request's fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := current_request_id.get():
            entry["request_id"] = request_id
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(value: object) -> str:
    """Quoted if it could be mistaken for more than one value."""
    text = ",".join(value) if isinstance(value, list) else str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(text)
