"""What the tests of bounds share: a gateway whose times are short, so that they run out while a test waits."""

from collections.abc import Iterator

import pytest

from serve.triton_server import TritonServer
from testing.gateway import Gateway
from tests.conftest import TINY

SHORT_TIMES = """
gateway.http.protocol.HEAD_TIMEOUT = 1.0
gateway.http.protocol.REST_TIMEOUT = 2.0
gateway.http.body.BODY_TIMEOUT = 1.0
gateway.http.unread.UNREAD_TIMEOUT = 1.0
gateway.server.IDLE_TIMEOUT = 1
gateway.http.protocol.MAXIMUM_CONNECTIONS = 300
"""


@pytest.fixture(scope="module")
def gateway(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    with Gateway(triton.grpc_address, log, SHORT_TIMES, MODEL_NAME=TINY, RUN_AHEAD="off") as started:
        yield started
        assert "Traceback" not in log.read_text()
