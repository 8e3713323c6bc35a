"""The text of answers over HTTP, streamed and whole: bytes that are no character, U+FFFD, stop strings of special tokens."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from testing.models import export
from testing.triton import Triton
from tests.conftest import CACHE, gateway_process
from tests.export.sentencepiece import sentencepiece_llama, sentencepiece_tokenizer
from tests.gateway.http_client import client, events
from tests.gateway.utf8 import complete, shown

BODY = {"model": "latest_checkpoint.pt", "prompt": "the tide", "max_tokens": 20, "ignore_eos": True}
LETTER_A = sentencepiece_tokenizer().token_to_id("a")
REPLACEMENT = 24211  # of the demonstration model: "\ufffd"


def whole(url: str, key: str, **fields: Any) -> Any:
    with client(url, key) as http:
        response = http.post("/v1/completions", json=BODY | fields)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def pieces(url: str, key: str, **fields: Any) -> list[Any]:
    with client(url, key) as http:
        response = http.post("/v1/completions", json=BODY | fields | {"stream": True})
    assert response.status_code == 200, response.text
    return [event["choices"][0] for event in events(response)]


def streamed(url: str, key: str, **fields: Any) -> str:
    return "".join(piece["text"] for piece in pieces(url, key, **fields))


def tokens_of(url: str, key: str, *texts: str) -> list[int]:
    with client(url, key) as http:
        bodies = [{"prompt": text, "add_special_tokens": False} for text in texts]
        answers = [http.post("/tokenize", json=body).json()["tokens"] for body in bodies]
    assert all(len(tokens) == 1 for tokens in answers), answers
    return [tokens[0] for tokens in answers]


def only(*tokens: int) -> dict[str, Any]:
    """Draws among these tokens alone."""
    return {"logit_bias": {str(token): 100 for token in tokens}, "temperature": 2.0}


def in_turn(*tokens: int) -> dict[str, Any]:
    """Writes these tokens alone, and each of them at last."""
    return only(*tokens) | {"temperature": 0, "frequency_penalty": 2.0}


@pytest.fixture(scope="module")
def sentencepiece_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway and a Triton of a tiny Llama with byte fallback."""
    checkpoint, repository = CACHE / "tiny-sentencepiece", CACHE / "sentencepiece_repository"
    if not checkpoint.exists():
        checkpoint.mkdir(parents=True)
        sentencepiece_llama(checkpoint)
    export(checkpoint, "--precision", "fp32", repository=repository)
    directory: Path = tmp_path_factory.mktemp("sentencepiece")
    with (
        Triton(repository, directory / "triton", ["*"], slots=8) as server,
        gateway_process(server.grpc_address, directory / "log", MODEL_NAME="tiny-sentencepiece") as address,
    ):
        yield address


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_any_bytes_that_a_model_writes_are_text_and_harm_no_neighbour(sentencepiece_url: str, api_key: str, seed: int) -> None:
    forced = only(*(3 + byte for byte in b"\n\xe4\xbd\xa0\xf0\xed"), LETTER_A)
    neighbour = {"temperature": 0, "max_tokens": 90}
    alone = streamed(sentencepiece_url, api_key, **neighbour)
    with ThreadPoolExecutor() as threads:
        beside = threads.submit(streamed, sentencepiece_url, api_key, **neighbour)
        answer = whole(sentencepiece_url, api_key, **forced, seed=seed, logprobs=0)
        text = streamed(sentencepiece_url, api_key, **forced, seed=seed)
        assert beside.result() == alone
    written = b"".join(_bytes(name) for name in answer["logprobs"]["tokens"])
    assert answer["text"] == text == shown(written) and "\ufffd" in text and answer["finish_reason"] == "length"
    with client(sentencepiece_url, api_key) as http:
        tokens = [3 + byte for byte in written if byte != ord("a")]
        told = http.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert told.startswith(shown(bytes(token - 3 for token in tokens)))


def _bytes(name: str) -> bytes:
    """Of a token, by its name in the older log-probabilities."""
    return bytes.fromhex(name[6:].replace("\\x", "")) if name.startswith("bytes:") else name.encode()


def test_a_real_replacement_character_is_sent_when_it_is_written(gateway_url: str, api_key: str) -> None:
    sent = pieces(gateway_url, api_key, max_tokens=3, **only(REPLACEMENT))
    assert "".join(piece["text"] for piece in sent) == whole(gateway_url, api_key, max_tokens=3, **only(REPLACEMENT))["text"]
    assert "".join(piece["text"] for piece in sent) == "\ufffd" * 3
    asked = {"response_format": {"type": "regex", "regex": "a\ufffdb\ufffd"}}
    answer = whole(gateway_url, api_key, **asked)
    assert (answer["text"], answer["finish_reason"]) == ("a\ufffdb\ufffd", "stop")
    assert streamed(gateway_url, api_key, **asked) == "a\ufffdb\ufffd"


@pytest.mark.parametrize("name", ["<|im_start|>", "<|im_end|>"])
def test_a_special_token_as_a_stop_string_ends_the_text_there(gateway_url: str, api_key: str, name: str) -> None:
    special, fox = tokens_of(gateway_url, api_key, name, " fox")
    drawn = in_turn(special, fox) | {"logprobs": 0}
    written = whole(gateway_url, api_key, **drawn)["logprobs"]["tokens"]
    foxes = written.index(name)
    assert foxes > 0 and whole(gateway_url, api_key, **drawn)["text"] == " fox" * written.count(" fox")
    for stop, text in ((name, " fox" * foxes), ([f"x{name}", "none"], (" fox" * foxes)[:-1])):
        answer = whole(gateway_url, api_key, **drawn, stop=stop)
        assert (answer["text"], answer["finish_reason"]) == (text, "stop")
        assert streamed(gateway_url, api_key, **drawn, stop=stop) == text
        assert len(answer["logprobs"]["tokens"]) == foxes


def test_a_stop_string_may_hold_the_token_that_ends_the_text(gateway_url: str, api_key: str) -> None:
    end, fox = tokens_of(gateway_url, api_key, "<|im_end|>", " fox")
    drawn = in_turn(end, fox) | {"ignore_eos": False}
    answer = whole(gateway_url, api_key, **drawn)
    text = answer["text"]
    assert text.endswith(" fox") and answer["finish_reason"] == "stop"
    assert whole(gateway_url, api_key, **drawn, stop=" fox<|im_end|>")["text"] == text.removesuffix(" fox")


def test_an_incomplete_character_is_never_sent(sentencepiece_url: str, api_key: str) -> None:
    for data in (b"\xe4", b"\xf0"):
        assert complete(data) == b"" and whole(sentencepiece_url, api_key, max_tokens=1, **only(3 + data[0]))["text"] == ""


def test_offsets_of_an_echo_are_places_in_its_text(sentencepiece_url: str, api_key: str) -> None:
    """The tokenizer puts a special token and a space before the prompt, which its text lacks."""
    for prompt in ("the tide", " the tide", "你好 the"):
        more = only(LETTER_A) | {"echo": True, "logprobs": 1, "max_tokens": 3}
        choice = whole(sentencepiece_url, api_key, prompt=prompt, **more)
        logprobs = choice["logprobs"]
        assert choice["text"].startswith(prompt)
        assert logprobs["text_offset"][-3] == len(prompt)
        for token, offset in list(zip(logprobs["tokens"], logprobs["text_offset"], strict=True))[1:-3]:
            if not token.startswith("bytes:"):
                assert choice["text"].startswith((token, token.removeprefix(" ")) if offset == 0 else token, offset)


def test_more_logprobs_than_an_answer_may_have_are_refused_by_name(gateway_url: str, api_key: str) -> None:
    with client(gateway_url, api_key) as http:
        answer = http.post("/v1/completions", json=BODY | {"prompt": ["Hello"] * 20, "max_tokens": 2000, "logprobs": 5})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "logprobs"
    assert re.search("with 240000 log-probabilities; at most 200000", answer.json()["error"]["message"])
