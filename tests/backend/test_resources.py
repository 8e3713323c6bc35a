"""What a container's limits leave: memory for slots, cores for threads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backends.onnx_decoder import resources

MIB = 2**20


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(resources, "CGROUP", tmp_path)
    return tmp_path


def test_without_a_limit_free_is_what_the_machine_has_available(cgroup: Path) -> None:
    available = resources.free_memory()
    assert available > 0
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text(f"{500 * MIB}\n")
    assert resources.free_memory() == pytest.approx(available, rel=0.2)


def test_files_that_were_read_leave_their_memory_to_slots(cgroup: Path) -> None:
    """A model's file of 90 MiB fills a container of 100 MiB, until something else is asked for."""
    (cgroup / "memory.max").write_text(f"{100 * MIB}\n")
    (cgroup / "memory.current").write_text(f"{95 * MIB}\n")
    assert resources.free_memory() == 5 * MIB
    (cgroup / "memory.stat").write_text(f"anon {5 * MIB}\nfile {90 * MIB}\ninactive_file {80 * MIB}\nactive_file {10 * MIB}\n")
    assert resources.free_memory() == 85 * MIB
    assert resources.choose_slots("auto", 10 * MIB, resources.free_memory()) == 4  # half of it
    assert resources.choose_slots("8", 10 * MIB, resources.free_memory()) == 8
    with pytest.raises(ValueError, match="9 slots take .* ask for at most 8 slots"):
        resources.choose_slots("9", 10 * MIB, resources.free_memory())


def test_a_container_that_is_over_its_limit_has_nothing_free(cgroup: Path) -> None:
    (cgroup / "memory.max").write_text("1000")
    (cgroup / "memory.current").write_text("2000")
    assert resources.free_memory() == 0
    with pytest.raises(ValueError, match="one slot takes"):
        resources.choose_slots("auto", MIB, resources.free_memory())


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", None), ("150000 100000", 1), ("50000 100000", 1), ("nonsense", None)]
)
def test_no_more_cores_than_the_container_gets_time_of(cgroup: Path, text: str, cores: int | None) -> None:
    (cgroup / "cpu.max").write_text(text)
    assert resources.usable_cores() == (len(os.sched_getaffinity(0)) if cores is None else cores)


def test_a_gpu_gives_three_quarters_of_its_own_memory_to_at_most_256_slots() -> None:
    assert resources.choose_slots("auto", 45 * MIB, 8192 * MIB, "cuda") == 8192 * 3 // 4 // 45
    assert resources.choose_slots("auto", 45 * MIB, 80 * 1024 * MIB, "cuda") == 256
    assert resources.choose_slots("1000", 45 * MIB, 80 * 1024 * MIB, "cuda") == 1000
    with pytest.raises(ValueError, match="one slot takes 1.0 GiB, 75% of the free memory is 0.8 GiB"):
        resources.choose_slots("auto", 1024 * MIB, 1024 * MIB, "cuda")


HUGE_PAGES = f"""
import ctypes, json, mmap, re
from pathlib import Path
from backends.onnx_decoder import resources

def in_huge_pages():
    return int(re.search(r"AnonHugePages: +(\\d+) kB", Path("/proc/self/smaps_rollup").read_text())[1]) * 1024

probe = mmap.mmap(-1, 4 * resources.HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
probe.write(b"1" * len(probe))
address = ctypes.addressof(ctypes.c_char.from_buffer(probe))
begin = -(-address // resources.HUGE_PAGE) * resources.HUGE_PAGE
weights = mmap.mmap(-1, {64 * MIB}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
weights.write(b"1" * len(weights))
before = in_huge_pages()
length = ctypes.c_size_t(resources.HUGE_PAGE)
supported = ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), length, resources.MADV_COLLAPSE) == 0
resources.use_huge_pages()
assert weights[-1] == ord("1")
print(json.dumps([supported, before, in_huge_pages()]))
"""


def test_what_was_allocated_moves_into_huge_pages_where_the_system_can() -> None:
    """In a process of its own: what this one has allocated is spared."""
    done = subprocess.run([sys.executable, "-c", HUGE_PAGES], capture_output=True, text=True, check=True)
    supported, before, after = json.loads(done.stdout)
    assert after >= 62 * MIB if supported else after == before
