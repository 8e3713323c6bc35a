"""Nothing in a body is ever answered as a request: raw bytes against a real gateway, alone and behind a real nginx."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import httpx
import pytest

from serve.triton_server import TritonServer
from testing.gateway import Gateway
from tests.conftest import TINY
from tests.nginx import FORWARDING, nginx_before

INSIDE = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: smuggled\r\n\r\n"
HEAD = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(INSIDE)
OFFER = b"Connection: Upgrade\r\nUpgrade: x\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def gateway(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    with Gateway(triton.grpc_address, log, MODEL_NAME=TINY) as started:
        yield started
        assert "smuggled" not in log.read_text()


def statuses(gateway: Gateway, *pieces: bytes) -> list[int]:
    """Of all answers on a connection on which the pieces are sent, with a pause between them."""
    with gateway.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.02)
        told = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"smuggled" not in told
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", told)]


@pytest.mark.parametrize("offer", [OFFER, H2C], ids=["x", "h2c"])
def test_a_body_behind_an_offer_of_another_protocol_is_a_body(gateway: Gateway, offer: bytes) -> None:
    request = HEAD + offer + INSIDE
    name = request.index(b"Upgrade:")
    for place in (name + 1, name + 3, name + 6, name + 7, name + 8, len(HEAD + offer) - 2, len(HEAD + offer)):
        assert statuses(gateway, request[:place], request[place:], LAST) == [401, 200]
        assert statuses(gateway, request[:place], request[place : len(HEAD + offer)], INSIDE, LAST) == [401, 200]


@pytest.mark.parametrize("offer", [OFFER, H2C], ids=["x", "h2c"])
def test_so_it_is_in_a_second_head_of_one_read(gateway: Gateway, offer: bytes) -> None:
    first = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    second = HEAD + offer + INSIDE
    assert statuses(gateway, first + second + LAST) == [200, 401, 200]
    assert statuses(gateway, second + second + LAST) == [401, 401, 200]
    assert statuses(gateway, second + HEAD + offer[:30], offer[30:] + INSIDE, LAST) == [401, 401, 200]
    rest_of_body = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nab"
    assert statuses(gateway, rest_of_body, b"c\r\n\r\nd" + second + LAST) == [401, 401, 200]


def test_an_ambiguous_request_is_400_and_ends_its_connection(gateway: Gateway) -> None:
    for length in (
        b"Content-Length: 4\r\nTransfer-Encoding: chunked",
        b"Content-Length: +4",
        b"Content-Length: 4\r\nContent-Length: 5",
    ):
        assert statuses(gateway, b"POST /generate HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n0\r\n\r\n" + LAST) == [400]


def test_a_request_has_one_answer_though_its_body_is_wrong(gateway: Gateway) -> None:
    """A second one would be taken, behind a proxy that keeps its connections, for that to another client's request."""
    chunked = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    assert statuses(gateway, chunked + b"\r\n", b"5\r\nhel", b"loXX\r\n", LAST) == [401]
    assert statuses(gateway, chunked + b"\r\n", b"0\r\nX: y\n\r\n", LAST) == [401]
    assert statuses(gateway, chunked + b"\r\nZZ\r\n" + LAST) == [400]
    assert statuses(gateway, chunked + b"Expect: 100-continue\r\n\r\nZZ\r\n") == [400]


def test_what_is_wrong_is_answered_behind_the_requests_before_it(gateway: Gateway) -> None:
    first = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    chunked = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"
    assert statuses(gateway, first + first + b"\n") == [200, 200, 400]
    assert statuses(gateway, first + chunked) == [200, 400]
    assert statuses(gateway, first + first + chunked + first) == [200, 200, 400]
    assert "Traceback" not in gateway.log.read_text()


@contextmanager
def network_that_splits(address: tuple[str, int], piece: int) -> Iterator[str]:
    """A way to ``address`` on which at most ``piece`` bytes arrive there at once, as where packets are small."""

    def forward(source: socket.socket, target: socket.socket, piece: int) -> None:
        with suppress(OSError):
            while data := source.recv(piece):
                target.sendall(data)
                time.sleep(0.001)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.create_connection(address)
                for one in (near, far):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                Thread(target=forward, args=(near, far, piece), daemon=True).start()
                Thread(target=forward, args=(far, near, 65536), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("piece", [7, 65536], ids=["small packets", "large packets"])
def test_behind_nginx_nobody_gets_another_ones_answer(gateway: Gateway, tmp_path: Path, api_key: str, piece: int) -> None:
    """One upstream connection is shared by an attacker and a victim; each answer bears the id of the request it belongs to."""
    with (
        network_that_splits(gateway.address, piece) as way,
        nginx_before(way, tmp_path / "nginx", FORWARDING) as url,
        httpx.Client(base_url=url, headers={"X-API-Key": api_key}) as victim,
    ):
        host, port = url.removeprefix("http://").split(":")
        for number in range(14):
            with socket.create_connection((host, int(port)), timeout=20) as attacker:
                head = HEAD.replace(b"/generate", b"/generate?" + b"x" * number)  # a split is everywhere once
                attacker.sendall(head + (H2C if number % 2 else OFFER) + INSIDE)
                assert attacker.recv(65536).startswith(b"HTTP/1.1 401 ")
                for again in range(2):
                    asked = f"victim-{number}-{again}"
                    answer = victim.get("/v1/models", headers={"X-Request-Id": asked})
                    assert (answer.status_code, answer.headers.get("X-Request-Id")) == (200, asked)
