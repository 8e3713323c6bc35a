"""What the server itself allows: the model that costs nothing, and the load that costs little."""

import shutil
from pathlib import Path

import pytest

from bench import path, tiny, wrk
from bench.environments import PeerError
from bench.servers import Server
from bench.tiny_model import tiny_gguf
from export.checkpoints import read
from tests.conftest import TINY
from tests.missing import missing

CLIENTS, TOKENS = 4, 16


@pytest.fixture
def server(tiny_gateway_url: str, api_key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """Skips loudly where there is no wrk; with CI=true that is a failure."""
    if shutil.which("wrk") is None:
        message = "no wrk here, the load of the tiny model was NOT tested (apt-get install wrk)"
        missing(message)
    monkeypatch.setattr(wrk, "KEY", api_key)
    monkeypatch.setattr(wrk, "RUN", tmp_path)
    return Server("tested", tiny_gateway_url, "", 0, {"model": TINY, "ignore_eos": True})


def test_the_tiny_model_is_the_same_each_time_and_the_exporter_reads_it(tmp_path: Path) -> None:
    first, second = (tiny_gguf(tmp_path / name) for name in ("first.gguf", "second.gguf"))
    assert first.read_bytes() == second.read_bytes()
    shape = read(first).architecture
    assert (shape.layers, shape.width, shape.vocabulary_size) == (2, 64, 354)


@pytest.mark.slow
def test_wrk_gets_whole_texts_and_the_meter_is_read_around_the_window(server: Server) -> None:
    readings = iter([(1.0,), (3.0,)])
    flow = wrk.flow(server, CLIENTS, TOKENS, lambda: next(readings), warm_up=0.5, seconds=2)
    assert flow.tokens_per_second > 0 and flow.seconds == pytest.approx(2, abs=0.5)
    assert flow.spent == (2.0,)
    assert flow.spent_per_token == (2.0 / (flow.tokens_per_second * flow.seconds),)


@pytest.mark.slow
def test_texts_that_are_refused_are_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrk, "KEY", "wrong")
    with pytest.raises(PeerError, match="the first with status 401"):
        wrk.flow(server, CLIENTS, TOKENS, tuple, warm_up=0.2, seconds=0.5)


def test_a_server_is_told_as_a_part_of_the_peer_round_by_round() -> None:
    ours = tiny.Measured([100, 300], {part: [10e-6, 30e-6] for part in tiny.PARTS}, [0.01], [0.002, 0.004], [128])
    peer = tiny.Measured([200, 300], {}, [0.01], [0.001], [256])
    figures = {clients: {tiny.OURS: ours, tiny.PEER: peer} for clients in tiny.CLIENTS}
    rates, costs = tiny.tables(figures)
    assert rates.rows[0] == ("1", "Tidegate", "200", "2.0", "10.0", "2.00", "4.00", "0.75")
    assert costs.rows[0] == ("1", "Tidegate", "20", "20", "20")
    against_peer, cpu = tiny.aims(figures)
    assert against_peer.reached == (0.75,) * 4 and not against_peer.met and cpu.met


def test_the_path_of_a_token_is_told_against_our_decoder_and_against_the_peer() -> None:
    def side(*rates: float) -> path.Measured:
        return path.Measured(list(rates), [0.05], [0.01, 0.02], [30e-6])

    ours = "Tidegate, SPECULATION=off"
    sides = {path.ALONE: path.Measured([100, 200]), ours: side(90, 190), path.PEER: side(100, 100)}
    figures = dict.fromkeys(path.STREAMS, sides)
    assert path.table(figures).rows[1] == ("1", ours, "140", "0.93", "1.40", "50", "10", "20", "30")
    decoder, peer, gap, cpu = path.aims(figures)
    assert decoder.reached == pytest.approx((0.925,) * 3) and not decoder.met
    assert peer.reached == pytest.approx((1.4,) * 3) and peer.met and gap.met and cpu.met
