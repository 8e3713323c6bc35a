"""Trims a library of CUDA code to the machine code of one compute capability.

The section `.nv_fatbin` holds fat binaries: a header each, then an entry for each capability, which is a header and its code.
The code of all other entries becomes zeros. Headers, sizes and addresses stay, so the driver finds what it looks for, and the
zeros take nearly no room once compressed.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from bench.gpu_check.bundle import BundleError

SECTION = b".nv_fatbin"
MAGIC = 0xBA55ED50
FAT_BINARY = struct.Struct("<IHHQ")  # magic, version, size of this header, size of all entries
ENTRY = struct.Struct("<HHIQ12xI")  # kind, version, size of this header, size of the code, …, capability as 90
ALIGNMENT = 8


class Entry(NamedTuple):
    capability: int
    start: int  # of its code
    size: int


def trim(library: bytearray, capability: int) -> int:
    """In place; returns the bytes of code that are kept. BundleError if there is no code for ``capability``."""
    entries = list(read_entries(library))
    kept = sum(entry.size for entry in entries if entry.capability == capability)
    if not kept:
        known = ", ".join(map(str, sorted({entry.capability for entry in entries})))
        raise BundleError(f"onnxruntime-gpu has no code for the compute capability {capability}, only for {known or 'none'}")
    for entry in entries:
        if entry.capability != capability:
            library[entry.start : entry.start + entry.size] = bytes(entry.size)
    return kept


def read_entries(library: bytearray) -> Iterator[Entry]:
    """All entries of all fat binaries."""
    position, end = _section(library)
    while position + FAT_BINARY.size <= end:
        magic, _, header, size = FAT_BINARY.unpack_from(library, position)
        if magic != MAGIC:  # padding
            position += ALIGNMENT
            continue
        entry, position = position + header, position + header + size
        while entry < position:
            _, _, header, size, capability = ENTRY.unpack_from(library, entry)
            yield Entry(capability, entry + header, size)
            entry += header + size
        position += -position % ALIGNMENT


def _section(library: bytearray) -> tuple[int, int]:
    """Start and end of `.nv_fatbin`, by the section headers of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", library, 0x28)
    size, count, of_names = struct.unpack_from("<HHH", library, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", library, table + number * size) for number in range(count)]
    names = headers[of_names][4]
    for name, _, _, _, offset, length in headers:
        if library.startswith(SECTION + b"\0", names + name):
            return offset, offset + length
    raise BundleError(f"the library has no section {SECTION.decode()}: it holds no CUDA code")
