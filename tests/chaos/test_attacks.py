"""What one key sends hurts no other request: every line of `python -m chaos.attacks`, with the bounds that we promise."""

from collections.abc import Iterator

import pytest

from chaos import attacks
from chaos.attack_watcher import KEY
from chaos.attacks import Figures, Line
from testing.gateway import Gateway
from testing.triton import Triton

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SLOWEST_LIVEZ = 0.1  # seconds
OF_MANY = 2.0  # the same beside tens or hundreds of large requests at once, whose bytes alone keep two cores busy
LEAST_PACE = 0.5  # of the stream's beside harmless requests of the same size
OF_GRAMMARS = 0.15  # the same while a hundred large grammars are tried
MOST_GROWTH = 200  # MiB
SLOWEST_ANSWER, OF_EACH_OF_MANY = 5.0, 10.0  # seconds
TRIES = 3  # a moment in which the machine was busy with something else is no fault of ours


@pytest.fixture(scope="module")
def gateway(triton: Triton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    log = tmp_path_factory.mktemp("attacks") / "log"
    with Gateway(triton.grpc_address, log, MY_API_KEY=KEY) as started:
        yield started.url, started.pid
    print(log.read_text()[-5000:])  # shown where a test fails


def faults(line: Line, figures: Figures) -> list[str]:
    slowest = OF_MANY if len(line.requests) > 1 else SLOWEST_LIVEZ
    least = OF_GRAMMARS if line.name == "100 grammars" else LEAST_PACE
    bounds = [
        (figures.livez > slowest, f"/livez took {figures.livez:.3f} s"),
        (figures.ratio < least, f"the stream's pace fell to {figures.ratio:.2f}"),
        (figures.grown > MOST_GROWTH, f"the gateway grew by {figures.grown:.0f} MiB"),
        (
            figures.slowest > (OF_EACH_OF_MANY if len(line.requests) > 1 else SLOWEST_ANSWER),
            f"an answer took {figures.slowest:.1f} s",
        ),
        (bool(figures.statuses.keys() - {"200", "400", "413", "429", "left", "unfinished"}), f"answers: {figures.statuses}"),
    ]
    return [what for broken, what in bounds if broken]


@pytest.mark.parametrize("line", attacks.lines(), ids=lambda line: line.name)
def test_nobody_is_hurt_by(line: Line, gateway: tuple[str, int]) -> None:
    found = []
    for _ in range(TRIES):
        figures = attacks.measure(line, *gateway, attacks.pace(*gateway, line))
        found = faults(line, figures)
        if not found:
            return
        print(figures.row())
    raise AssertionError("; ".join(found))
