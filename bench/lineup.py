"""Who takes part in the comparison of engines, in the order of the tables, and what each is given."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import weights
from bench.engine import Setting
from bench.environments import (
    CTRANSLATE2,
    LLAMA_CPP,
    ONNXRUNTIME_GENAI,
    OPENVINO_GENAI,
    RUN,
    THREADS,
    TRANSFORMERS,
    Environment,
    convert,
)
from export.demonstration import demonstration_checkpoint
from testing.models import export

WEIGHTS = RUN / "weights"
MODELS = RUN / "models"
LLAMA_BINARIES = LLAMA_CPP.directory / "build" / "bin"
OURS = ("int8", "int8-row", "int4", "fp32")
QUICK_OURS = ("int8", "fp32")


def our_model(precision: str) -> Path:
    """The model directory of an export that the bench keeps. The exporter knows what is done."""
    name = f"smollm2-{precision}"
    export("--name", name, "--precision", precision, "--context-length", "2048", repository=MODELS)
    return MODELS / name


def newest_version(model: Path) -> Path:
    return max(model.glob("[1-9]*"), key=lambda directory: int(directory.name))


def _ours(precision: str) -> Setting:
    def command() -> Sequence[str | Path]:
        return [sys.executable, "-m", "bench.engines.tidegate", newest_version(our_model(precision)) / "model.onnx"]

    return Setting(f"Tidegate {precision}", None, command, quick=precision in QUICK_OURS)


def _script(environment: Environment, script: str, *arguments: str | Path) -> list[str | Path]:
    return [environment.python, "-m", f"bench.engines.{script}", *arguments]


def _llama(name: str, gguf: Callable[[], Path], **options: Any) -> Setting:
    return Setting(name, LLAMA_CPP, lambda: _script(LLAMA_CPP, "llama_cpp", LLAMA_BINARIES, gguf(), str(THREADS)), **options)


def _genai(precision: str, **options: Any) -> Setting:
    def command() -> Sequence[str | Path]:
        source = huggingface()
        builder = ["-m", "smollm2", "-i", str(source), "-o", "OUTPUT", "-p", precision, "-e", "cpu", "-c", str(RUN / "cache")]
        if precision in ("int4", "int8"):
            builder += ["--extra_options", "int4_accuracy_level=4"]
        target = WEIGHTS / f"onnxruntime-genai-{precision}"
        convert(ONNXRUNTIME_GENAI, target, "onnxruntime_genai.models.builder", *builder)
        _set_threads(target / "genai_config.json")
        return _script(ONNXRUNTIME_GENAI, "onnxruntime_genai", target, precision)

    return Setting(f"onnxruntime-genai {precision}", ONNXRUNTIME_GENAI, command, **options)


def _set_threads(path: Path) -> None:
    config = json.loads(path.read_text())
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = THREADS
    path.write_text(json.dumps(config, indent=2))


def _ctranslate2(kind: str, **options: Any) -> Setting:
    def command() -> Sequence[str | Path]:
        source, target = huggingface(), WEIGHTS / f"ctranslate2-{kind}"
        converter = ["--model", str(source), "--output_dir", "OUTPUT", "--quantization", kind]
        convert(CTRANSLATE2, target, "ctranslate2.converters.transformers", *converter)
        return _script(CTRANSLATE2, "ctranslate2", target, kind, str(THREADS))

    return Setting(f"CTranslate2 {kind}", CTRANSLATE2, command, **options)


def _transformers(kind: str, *more: str, name: str | None = None, **options: Any) -> Setting:
    def command() -> Sequence[str | Path]:
        source = huggingface()
        return _script(TRANSFORMERS, "transformers", source, kind, str(THREADS), *more)

    return Setting(name or f"transformers {kind}", TRANSFORMERS, command, **options)


def _openvino(name: str, gguf: Callable[[], Path], **options: Any) -> Setting:
    return Setting(name, OPENVINO_GENAI, lambda: _script(OPENVINO_GENAI, "openvino_genai", gguf(), str(THREADS)), **options)


def huggingface() -> Path:
    return weights.huggingface(WEIGHTS / "huggingface")


def q8_0() -> Path:
    return weights.q8_0(WEIGHTS / "smollm2-q8_0.gguf")


RECOMPUTE = "plain loop without a cache"
SETTINGS = (
    *map(_ours, OURS),
    _llama("llama.cpp Q8_0", q8_0),
    _llama("llama.cpp Q4_1", demonstration_checkpoint, quick=False),
    _genai("int8"),
    _genai("int4", quick=False),
    _genai("fp32", quick=False),
    _openvino("OpenVINO GenAI Q8_0", q8_0),
    _ctranslate2("int8"),
    _ctranslate2("float32", quick=False),
    _transformers("float32"),
    _transformers("bfloat16", quick=False),
    _transformers("float32", "recompute", name=RECOMPUTE, quick=False),
)
