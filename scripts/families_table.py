"""The tables of docs/export.md: kinds of checkpoints with the tests that prove them, and the families that the code knows."""

from collections.abc import Iterable
from pathlib import Path

from export.checkpoints.gguf.families import FAMILIES as GGUF_ARCHITECTURES
from export.checkpoints.gguf.file import SERVED
from export.checkpoints.huggingface import FAMILIES as MODEL_TYPES

TESTS = Path(__file__).resolve().parent.parent / "tests" / "export"
GITHUB = "https://github.com"
KINDS = (  # project, its repository, what a user names, what is read besides, its tests
    ("build-nanogpt", "karpathy/build-nanogpt", "`log/model_40000.pt`, or `log/`", "GPT-2's BPE", "test_checkpoints"),
    ("nanoGPT", "karpathy/nanoGPT", "`out/ckpt.pt`, or `out/`", "GPT-2's BPE, or `meta.pkl`'s characters", "test_checkpoints"),
    (
        "nanochat",
        "karpathy/nanochat",
        "its base directory, `chatsft_checkpoints/d20`, or a `model_000650.pt`",
        "`meta_000650.json`, `tokenizer/tokenizer.pkl`; its chat tokens",
        "test_nanochat",
    ),
    (
        "minimind 2 and 3",
        "jingyaogong/minimind",
        "`out/full_sft_768.pth`, a `…_resume.pth`, a Hugging Face directory",
        "`model/tokenizer.json` and its chat template",
        "test_minimind",
    ),
    (
        "LLMs-from-scratch",
        "rasbt/LLMs-from-scratch",
        "`model.pth`, with `HEADS` where its width is none of GPT-2's",
        "GPT-2's BPE",
        "test_llms_from_scratch",
    ),
    ("minGPT", "karpathy/minGPT", "`out/chargpt/model.pt`", "GPT-2's BPE, or the characters of `input.txt`", "test_mingpt"),
    (
        "llm.c",
        "karpathy/llm.c",
        "`log124M/model_00019560.bin` (versions 3 and 5), or its directory",
        "GPT-2's BPE",
        "test_llm_c",
    ),
    (
        "llama2.c",
        "karpathy/llama2.c",
        "`out/ckpt.pt`, a `.bin` of version 0, 1 or 2",
        "`tokenizer.model` or `tokenizer.bin`",
        "test_llama2c",
    ),
    (
        "happy-llm, baby-llama2-chinese",
        "datawhalechina/happy-llm",
        "the `.pth`, with `HEADS` where it is not known",
        "the tokenizer beside it",
        "test_llama2c",
    ),
    (
        "litgpt",
        "Lightning-AI/litgpt",
        "`out/finetune/full/final`, or the directory above it",
        "`model_config.yaml`, its tokenizer, its prompt style",
        "test_litgpt",
    ),
    ("GPT2-Chinese", "Morizeyao/GPT2-Chinese", "a directory of `save_pretrained`", "`vocab.txt`", "test_wordpiece"),
    (
        "Hugging Face",
        "huggingface/transformers",
        "a directory, a snapshot or `models--…` of its cache: safetensors or `pytorch_model.bin`, sharded too",
        "`tokenizer.json`, or what transformers would read instead; the chat template",
        "test_hf_llama_likes",
    ),
    (
        "GGUF",
        "ggml-org/llama.cpp",
        "a `.gguf`, any part of a split one, or its directory",
        "its own tokenizer and template",
        "test_gguf",
    ),
)


def kinds_table() -> str:
    """Raises ValueError where a test module does not exist."""
    lines = ["| checkpoint | what you name | also read | tested by |", "| --- | --- | --- | --- |"]
    for name, repository, named, besides, tests in KINDS:
        if not (TESTS / f"{tests}.py").is_file():
            raise ValueError(f"{name}: there is no tests/export/{tests}.py")
        lines.append(f"| [{name}]({GITHUB}/{repository}) | {named} | {besides} | `tests/export/{tests}.py` |")
    return "\n".join(lines)


def families_table() -> str:
    lines = ["| | |", "| --- | --- |"]
    lines.append(f"| `model_type` of a Hugging Face directory | {_listed(MODEL_TYPES)} |")
    lines.append(f"| `general.architecture` of a GGUF | {_listed(GGUF_ARCHITECTURES)} |")
    lines.append(f"| its tensors | {_listed(SERVED)} |")
    return "\n".join(lines)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names, key=str.lower))
