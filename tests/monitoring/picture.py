"""Makes docs/images/dashboard.png: a real stack under load for some minutes, with a killed Triton and a burst in it.

python -m tests.monitoring.picture [SECONDS]
"""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from monitoring.render import Prometheus, render
from tests.conftest import CACHE, ROOT
from tests.monitoring.stack import RATE_INTERVAL, Load, watched_stack

PICTURE = ROOT / "docs" / "images" / "dashboard.png"


def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as directory, watched_stack(CACHE / "model_repository", Path(directory)) as stack:
        began = time.time()
        load = Load(stack, clients=5)
        time.sleep(0.4 * seconds)
        load.burst()
        time.sleep(0.2 * seconds)
        os.kill(stack.triton.pid, signal.SIGKILL)
        time.sleep(4)
        stack.triton.stop()
        stack.triton.start()
        time.sleep(0.4 * seconds)
        load.burst()
        title = f"Tidegate   a tiny GPT-2 on one Triton of four slots, two CPU cores   {time.strftime('%Y-%m-%d')}"
        drawn = render(Prometheus(stack.prometheus, began, time.time()), RATE_INTERVAL, PICTURE, title)
        load.stop()
    print(f"{PICTURE}: {drawn}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 120)
