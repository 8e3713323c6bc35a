"""The parts of `make bench` that need no peer: the protocol with our own engine, the driver at our own gateway, the sums."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backends.onnx_decoder.decoder import Decoder, Row
from bench import compare_engines, environments, plots, results
from bench.compare_engines import cut, likeness
from bench.driver import ask, closed_loop, summed
from bench.engine import Engine
from bench.environments import PeerError
from bench.own_figures import weight_bytes
from bench.report import Aim, Report, Table, ratio
from bench.servers import Server
from testing.client import Answer
from tests.conftest import TINY, version_directory


@pytest.fixture(scope="module")
def tiny_model(model_repository: Path) -> Path:
    return version_directory(model_repository, TINY) / "model.onnx"


@pytest.fixture(scope="module")
def own_engine(tiny_model: Path) -> Iterator[Engine]:
    environments.RUN.mkdir(parents=True, exist_ok=True)
    engine = Engine(
        "tested engine", [sys.executable, "-m", "bench.engines.tidegate", tiny_model, "--slots", "4", "--context", "64"]
    )
    yield engine
    engine.close()


def test_an_engine_writes_what_its_decoder_writes_step_by_step(own_engine: Engine, tiny_model: Path) -> None:
    decoder = Decoder(tiny_model, slots=1, context_length=64)
    prompts, expected = [[5, 6, 7], [9, 8, 7], [1, 2, 3]], []
    for prompt in prompts:
        text: list[int] = []
        for _ in range(6):
            (found,) = decoder.run([Row(0, 0, np.array(prompt + text, np.int32))])
            text.append(int(found.candidate_id[0, 0]))
        expected.append(text)
    told = own_engine.ask("decode", prompts=prompts, tokens=6)
    assert told["texts"] == expected
    assert own_engine.ask("texts", prompts=prompts, tokens=6) == {"texts": expected}
    assert told["seconds"] > 0 and told["prefill_seconds"] > 0


def test_an_engine_tells_what_went_wrong_and_goes_on(own_engine: Engine) -> None:
    with pytest.raises(PeerError, match="total_sequence_length must be positive"):
        own_engine.ask("prefill", prompt=[])
    assert own_engine.ask("prefill", prompt=[1, 2, 3])["seconds"] > 0


def test_an_engine_that_cannot_start_is_named_with_its_last_words() -> None:
    with pytest.raises(PeerError, match=r"status 3: .*no such model"):
        Engine("broken", [sys.executable, "-c", "import sys; print('no such model', file=sys.stderr); sys.exit(3)"])


@pytest.mark.anyio
@pytest.mark.usefixtures("one_event_loop")
async def test_the_driver_sees_a_token_an_event(tiny_gateway_url: str, api_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.driver.KEY", api_key)
    server = Server("tested", tiny_gateway_url, "", 0, {"model": TINY, "ignore_eos": True})
    answer = await ask(server, "Hello", 8)
    assert answer.complete and 1 <= len(answer.events) <= 8
    assert answer.events == sorted(answer.events) and answer.first > 0
    load = await closed_loop(server, 2, lambda: "Hello", 8, warm_up=0.2, seconds=0.5)
    assert load.failures == [] and load.tokens_per_second > 0


@pytest.mark.anyio
@pytest.mark.usefixtures("one_event_loop")
async def test_the_driver_names_what_a_server_refuses(tiny_gateway_url: str) -> None:
    server = Server("tested", tiny_gateway_url, "", 0)
    with pytest.raises(OSError, match=r"401.*invalid_api_key"):
        await ask(server, "Hello", 8)


def test_a_load_counts_what_happens_in_its_window_alone() -> None:
    early = Answer(0.0, [0.5, 1.5, 1.7], [3, 4, 5])
    late = Answer(1.0, [1.9, 3.5], [3, 4])
    load = summed([early, late], [], 2, 48, opening=1.0, closing=3.0)
    assert load.tokens_per_second == pytest.approx(3 / 2.0)  # 1.5, 1.7 and 1.9
    assert load.first == pytest.approx([0.9])  # the other first token came before the window
    assert load.between == pytest.approx([1.0, 0.2])


def test_events_of_several_tokens_count_as_many() -> None:
    whole = Answer(0.0, [0.5, 1.0, 1.5], [10, 20, 10], complete=True)  # 8 tokens of 5 characters
    begun = Answer(1.0, [1.5], [15])
    assert summed([whole, begun], [], 2, 8, opening=0.0, closing=2.0).tokens_per_second == pytest.approx((8 + 3) / 2.0)
    assert summed([whole, begun], [], 2, 8, opening=1.2, closing=2.2).tokens_per_second == pytest.approx(2 + 3)


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    assert ratio([10, 30, 100], [10, 10, 20]) == 3.0


def test_likeness_is_the_share_before_the_first_difference() -> None:
    assert likeness([1, 2, 3, 4], [1, 2, 9, 4]) == 0.5
    assert likeness([1, 2], [1, 2]) == 1.0


def test_prompts_are_different_pieces_of_one_length() -> None:
    pieces = cut(list(range(100)), 5, 20)
    assert [len(piece) for piece in pieces] == [20] * 5
    assert len({tuple(piece) for piece in pieces}) == 5


def test_an_aim_is_met_only_where_all_its_figures_are() -> None:
    assert Aim("", (1.2, 1.6), (1.3, 1.6)).met
    assert not Aim("", (1.2, 1.6), (1.3, 1.5)).met
    assert Aim("", (2.5,), (2.4,), at_most=True).met
    assert not Aim("", (2.5,), (2.6,), at_most=True).met


def test_the_best_peer_of_equal_quality_is_compared_with_the_best_of_ours_of_that_quality() -> None:
    report = Report(quick=True)
    report.foreign["engines"] = [0.0] * 4
    rates = {"Tidegate int8": 15.0, "Tidegate fp32": 20.0, "Tidegate coarse": 50.0, "good": 10.0, "fast and coarse": 40.0}
    report.decode = {name: {streams: [rate, rate] for streams in compare_engines.STREAMS} for name, rate in rates.items()}
    report.prefill = {name: [rate] for name, rate in rates.items()}
    coarse = {"Tidegate coarse": 0.3, "fast and coarse": 0.3}
    report.likeness = {"Tidegate int8": 0.8, "Tidegate fp32": 1.0, "good": 0.8} | coarse
    compare_engines.tables(report)
    decode, prefill = report.aims
    assert decode.reached == (2.0, 2.0, 2.0) and decode.met and "fp32 : good" in decode.remark
    assert prefill.reached == (2.0,)


def test_a_step_that_fails_is_named_and_the_bench_goes_on() -> None:
    report = Report(quick=True)
    with report.step("something"):
        raise PeerError("it broke")
    assert report.failures == {"something": "PeerError: it broke"}


def test_the_results_name_aims_failures_and_figures(tmp_path: Path) -> None:
    report = Report(quick=True)
    report.aims = [
        Aim("a thing", (1.2, 1.6), (1.5, 1.4), remark="why"),
        Aim("a time", (80,), (60.4,), at_most=True),
    ]
    report.tables = [Table("Engines", ("engine", "tokens/s"), (("ours", "12"),), "A note.")]
    report.failures, report.given = {"peer": "line\nand | line"}, {"ours": "2 threads"}
    report.seconds = {"Engines": 61.0}
    report.context = {8: {64: 0.01, 256: 0.02}}
    drawn = plots.draw(report, tmp_path / "results")
    results.write(report, {"cores": "2"}, drawn, tmp_path / "RESULTS.md", tmp_path / "results")
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| a thing | 1.2 / 1.6 | 1.5 / 1.4 | no | why |" in text
    assert "| a time | ≤ 80 | 60 | yes |  |" in text
    assert "- peer: line and \\| line" in text and "| ours | 12 |" in text and "`make bench QUICK=1`" in text
    for link in re.findall(r"\]\((.+?)\)", text):
        assert (tmp_path / link).read_bytes().startswith(b"\x89PNG")
    assert [name for name, _ in drawn] == ["context.png"]  # what was not measured is not drawn


def test_the_weights_of_a_step_are_all_but_the_rows_of_tables_that_it_does_not_read(tiny_model: Path) -> None:
    stored = tiny_model.with_suffix(".onnx.data")
    size = (stored if stored.exists() else tiny_model).stat().st_size
    assert 0 < weight_bytes(tiny_model) <= size


def test_every_peer_is_pinned_with_hashes() -> None:
    for environment in environments.ALL:
        text = environment.requirements.read_text()
        pinned = re.findall(r"^[\w.\[\]-]+==\S+ \\$", text, re.MULTILINE)
        assert pinned, environment.name
        blocks = re.split(r"\n(?=\S)", text.strip())
        assert len(blocks) == len(pinned) and all("--hash=sha256:" in block for block in blocks), environment.name
        assert "://" not in text
