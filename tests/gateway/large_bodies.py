"""The largest bodies of many kinds, each within MAXIMUM_BODY: faults a hundred thousand times, and what is valid but absurd."""

from collections.abc import Callable

from gateway.http.body import MAXIMUM_BODY
from tests.conftest import DEMO, TINY

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGE = '{"role":"user","content":""}'
ASKED = f'"model":"{TINY}","messages":[{{"role":"user","content":"Hello"}}],"max_tokens":1'


def filled(head: str, item: str | Callable[[int], str], tail: str) -> bytes:
    """As many items as a body can hold."""
    parts, size, number = [head.encode()], len(head) + len(tail), 0
    while True:
        one = (item if isinstance(item, str) else item(number)).encode()
        size += len(one) + 1
        if size > MAXIMUM_BODY:
            return b"".join(parts)[: -1 if number else None] + tail.encode()
        parts += [one, b","]
        number += 1


def field(number: int) -> str:
    return f'"{number}":0'


def schema(begin: str, item: str | Callable[[int], str], end: str) -> bytes:
    head = f'{{{ASKED},"response_format":{{"type":"json_schema","json_schema":{{"name":"a","schema":{begin}'
    return filled(head, item, end + "}}}")


BODIES: dict[str, tuple[str, bytes]] = {
    "messages: numbers": (CHAT, filled(f'{{"model":"{TINY}","messages":[', "0", "]}")),
    "messages: empty objects": (CHAT, filled(f'{{"model":"{TINY}","messages":[', "{}", "]}")),
    "messages: many": (CHAT, filled(f'{{"model":"{TINY}","max_tokens":1,"messages":[', MESSAGE, "]}")),
    "message: unknown fields": (CHAT, filled(f'{{"model":"{TINY}","messages":[{{"role":"user","content":"a",', field, "}]}")),
    "message: parts": (CHAT, filled(f'{{"model":"{TINY}","messages":[{{"role":"user","content":[', "0", "]}]}")),
    "unknown fields": (CHAT, filled(f"{{{ASKED},", field, "}")),
    "stop: empty strings": (CHAT, filled(f'{{{ASKED},"stop":[', '""', "]}")),
    "stop: a long string": (CHAT, f'{{{ASKED},"stop":"{"x" * 1_000_000}"}}'.encode()),
    "logit_bias": (CHAT, filled(f'{{{ASKED},"logit_bias":{{', field, "}}")),
    "metadata": (CHAT, filled(f'{{{ASKED},"metadata":{{', field, "}}")),
    "tools": (CHAT, filled(f'{{{ASKED},"tools":[', "{}", "]}")),
    "schema: wide": (CHAT, schema('{"properties":{', lambda number: f'"{number}":{{}}', "}}")),
    "schema: deep": (CHAT, schema('{"enum":[', "[" * 40 + "]" * 40, "]}")),
    "schema: long": (CHAT, schema('{"enum":[', "0", "]}")),
    "prompt: token ids": (COMPLETIONS, filled(f'{{"model":"{TINY}","prompt":[', "5", "]}")),
    "prompt: token ids and their text": (COMPLETIONS, filled(f'{{"model":"{TINY}","echo":true,"prompt":[', "5", "]}")),
    "prompt: lists": (COMPLETIONS, filled(f'{{"model":"{TINY}","prompt":[', "[5]", "]}")),
    "prompt: floats": (COMPLETIONS, filled(f'{{"model":"{TINY}","prompt":[', "1.5", "]}")),
    "input: numbers": (RESPONSES, filled(f'{{"model":"{TINY}","input":[', "0", "]}")),
    "input: a megabyte": (RESPONSES, f'{{"model":"{TINY}","input":"{"hello " * 170_000}"}}'.encode()),
    "generate: brackets in a string": ("/generate", f'{{"prompt":"{chr(92)}"{"[{" * 500_000}"}}'.encode()),
    "generate: nested": ("/generate", filled('{"prompt":[', "[[]]", "]}")),
    "tokenize: digits": ("/tokenize", f'{{"prompt":"{"1" * 1_048_000}"}}'.encode()),
    "tokenize: digits, one by one": ("/tokenize", f'{{"model":"{DEMO}","prompt":"{"1" * 1_048_000}"}}'.encode()),
    "tokenize: emoji and their tokens": (
        "/tokenize",
        f'{{"model":"{DEMO}","return_token_strs":true,"prompt":"{"😀" * 250_000}"}}'.encode(),
    ),
    "tokenize: messages": ("/tokenize", filled('{"messages":[', "0", "]}")),
    "detokenize: negative": ("/detokenize", filled('{"tokens":[', "-1", "]}")),
    "detokenize: unknown": ("/detokenize", filled('{"tokens":[', "99999999", "]}")),
    "detokenize: many": ("/detokenize", filled('{"tokens":[', "5", "]}")),
    "no object": ("/generate", filled("[", "[]", "]")),
}
