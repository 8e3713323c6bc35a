"""Valid checkpoints of every kind, changed at random: each is read, or refused with a CheckpointError of one line."""

import copy
import json
import random
import shutil
import signal
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checkpoint import CheckpointError
from export.checkpoints import read
from tests.export import samples

CASE_SECONDS = 20  # a case that takes longer hangs
WORDS = [0, 1, 2, 3, 7, 8, 31, 32, 33, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 3, 10**9, 10**30, -(10**30), 1.5, float("nan"), float("inf"), "", "4", "\ud800", "\0",
    "x" * 5000, [], [1], [[]], {}, {"a": 1}, [0, 10**12], ["a", "b"], "../../etc/passwd", "\x1b[2J", "<|im_end|>", "F32", "I64",
]  # fmt: skip
# What is changed mostly: the rest of these files are weights, of which any bits are good ones
HEADER = 40_000  # bytes


def _pt(directory: Path) -> Path:
    samples.nanogpt(directory / "ckpt.pt")
    return directory / "ckpt.pt"


def _build_nanogpt(directory: Path) -> Path:
    samples.build_nanogpt(directory / "model.pt", n_embd=8, n_layer=1)
    return directory / "model.pt"


def _gguf(quantization: str) -> Callable[[Path], Path]:
    def make(directory: Path) -> Path:
        samples.gguf_llama(directory / "model.gguf", quantization)
        return directory / "model.gguf"

    return make


def _directory(make: Callable[..., Any], **options: Any) -> Callable[[Path], Path]:
    def make_in(directory: Path) -> Path:
        make(directory, **options)
        return directory

    return make_in


def _vocabulary_files(directory: Path) -> Path:
    """A directory with vocab.json and merges.txt in the place of tokenizer.json."""
    samples.hf_gpt2(directory)
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in model["merges"]))
    (directory / "added_tokens.json").write_text(json.dumps({"<|user|>": len(model["vocab"])}))
    (directory / "special_tokens_map.json").write_text(
        json.dumps({"sep_token": "<|user|>", "eos_token": {"content": "<|im_end|>"}})
    )
    return directory


def _added_tokens(directory: Path) -> Path:
    """A directory whose tokenizer_config.json has the added tokens with their flags."""
    samples.hf_gpt2(directory)
    file = directory / "tokenizer_config.json"
    flags = {"content": "<|im_end|>", "lstrip": True, "rstrip": False, "normalized": False, "special": True}
    more = {"added_tokens_decoder": {"2": flags}, "extra_special_tokens": ["<|im_start|>"], "image_token": "the"}
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    return directory


KINDS: dict[str, Callable[[Path], Path]] = {
    "nanoGPT .pt and meta.pkl": _pt,
    "build-nanogpt .pt": _build_nanogpt,
    "GGUF Q8_0": _gguf("Q8_0"),
    "GGUF F32": _gguf("F32"),
    "Hugging Face GPT-2": _directory(samples.hf_gpt2),
    "Hugging Face Llama, shards": _directory(samples.hf_llama, shards=True),
    "Hugging Face, vocab.json": _vocabulary_files,
    "Hugging Face, added tokens": _added_tokens,
}


@dataclass
class Figures:
    cases: int = 0
    refused: int = 0
    slowest: float = 0.0  # seconds of a case


class Hung(BaseException):
    """No Exception, so that no reader takes it for a fault of the file."""


def fuzz(kind: str, cases: int, seed: int, workshop: Path) -> Figures:
    """The changed files lie in ``workshop`` until the next case, so the one that failed is still there."""
    random_ = random.Random(f"{kind} {seed}")
    figures = Figures()
    original = workshop / "original"
    original.mkdir(parents=True)
    path = KINDS[kind](original)
    for case in range(cases):
        changed = workshop / f"case-{case}"  # never the same file again: the one before may still be mapped
        shutil.copytree(original, changed)
        mutate(random_.choice([file for file in sorted(changed.iterdir()) if file.is_file()]), random_)
        began = time.monotonic()
        try:
            with _alarm(CASE_SECONDS):
                figures.refused += _refused(changed / path.relative_to(original))
        except BaseException as exc:
            exc.add_note(f"{kind}, case {case} of seed {seed}, in {changed}")
            raise
        figures.cases += 1
        figures.slowest = max(figures.slowest, time.monotonic() - began)
        shutil.rmtree(changed)
    return figures


def _refused(path: Path) -> bool:
    try:
        checkpoint = read(path)
        for name in checkpoint.weights:
            assert checkpoint.weights[name].ndim in (1, 2)
    except CheckpointError as refusal:
        said = str(refusal)
        assert said.isprintable() and len(said) < 2000, f"not one short line: {said[:3000]!r}"
        return True
    return False


def mutate(file: Path, random_: random.Random) -> None:
    content = file.read_bytes()
    if file.suffix == ".json" and random_.random() < 0.7:
        changed = _edited_json(content, random_)
    elif file.suffix == ".pt" and random_.random() < 0.6:
        changed = None
        _edit_pickle(file, random_)
    elif file.suffix == ".safetensors" and random_.random() < 0.6:
        changed = _edited_header(content, random_)
    else:
        changed = content
        for _ in range(random_.choice((1, 1, 2, 4))):
            changed = random_.choice((_flip, _flip, _word, _word, _cut, _splice, _insert, _delete))(changed, random_)
    if changed is not None:
        file.unlink()
        file.write_bytes(changed)


def _place(content: bytes, random_: random.Random) -> int:
    """Mostly in the header, or in the last bytes, where a zip archive has its own."""
    area = random_.choice((HEADER, HEADER, 300, len(content), -2000))
    start = max(0, len(content) + area) if area < 0 else 0
    return random_.randrange(start, max(start + 1, min(len(content), start + abs(area)))) if content else 0


def _flip(content: bytes, random_: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random_.choice((1, 2, 8))):
        if changed:
            changed[_place(content, random_)] ^= 1 << random_.randrange(8)
    return bytes(changed)


def _word(content: bytes, random_: random.Random) -> bytes:
    """An absurd number in the place of one."""
    width, form = random_.choice(((4, "<I"), (8, "<Q"), (2, "<H")))
    place = _place(content, random_)
    return content[:place] + struct.pack(form, random_.choice(WORDS) % 256**width) + content[place + width :]


def _cut(content: bytes, random_: random.Random) -> bytes:
    return content[: random_.choice((_place(content, random_), len(content) - random_.randint(1, 100), random_.randint(0, 64)))]


def _splice(content: bytes, random_: random.Random) -> bytes:
    source, target, length = _place(content, random_), _place(content, random_), random_.choice((1, 8, 24, 200, 5000))
    return content[:target] + content[source : source + length] + content[target + length :]


def _insert(content: bytes, random_: random.Random) -> bytes:
    place = _place(content, random_)
    return content[:place] + random_.randbytes(random_.choice((1, 4, 8, 100))) + content[place:]


def _delete(content: bytes, random_: random.Random) -> bytes:
    place = _place(content, random_)
    return content[:place] + content[place + random_.choice((1, 4, 8, 100)) :]


def _edited_json(content: bytes, random_: random.Random) -> bytes:
    document = json.loads(content)
    for _ in range(random_.choice((1, 1, 2, 4))):
        document = _edited(document, random_)
    return json.dumps(document).encode()


def _edited(document: Any, random_: random.Random) -> Any:
    """The document with one value, at any depth, that is another, is gone, or has moved to another key."""
    holders = [document] if isinstance(document, dict | list) and document else []
    while holders:
        holder = holders[0]
        key = random_.choice(list(holder)) if isinstance(holder, dict) else random_.randrange(len(holder))
        child = holder[key]
        if isinstance(child, dict | list) and child and random_.random() < 0.8:
            holders = [child]
            continue
        action = random_.random()
        if action < 0.15:
            del holder[key]
        elif action < 0.25 and isinstance(holder, dict):
            holder[random_.choice(["", "x", "\ud800", *map(str, list(holder)[:5])])] = child
        else:
            holder[key] = copy.deepcopy(random_.choice(VALUES))
        return document
    return copy.deepcopy(random_.choice(VALUES))


def _edited_header(content: bytes, random_: random.Random) -> bytes:
    """A safetensors file with a changed header of the right length."""
    length = int.from_bytes(content[:8], "little")
    header = _edited_json(content[8 : 8 + length], random_)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def _edit_pickle(file: Path, random_: random.Random) -> None:
    """Changes the pickle inside, and makes the archive anew: its checksums are right."""
    with zipfile.ZipFile(file) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    file.unlink()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for entry, content in entries:
            if entry.filename.endswith("/data.pkl") or random_.random() < 0.03:
                content = random_.choice((_flip, _word, _splice, _insert, _delete, _number))(content, random_)
            archive.writestr(entry.filename, content)


def _number(content: bytes, random_: random.Random) -> bytes:
    """A small number of a pickle (BININT1) becomes another one."""
    places = [place for place in range(len(content) - 1) if content[place : place + 1] == b"K"]
    if not places:
        return content
    place = random_.choice(places)
    value = random_.choice(([b"K", 0], [b"K", 1], [b"K", 255], [b"J", 2**31 - 1], [b"J", 2**31], [b"J", 10**6]))
    new = value[0] + (struct.pack("<B", value[1]) if value[0] == b"K" else struct.pack("<I", value[1]))
    return content[:place] + new + content[place + 2 :]


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def hung(number: int, frame: object) -> None:
        raise Hung(f"not read after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
