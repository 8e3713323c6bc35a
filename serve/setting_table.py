"""What each setting of `serve` and `export` means, including the gateway's: for flags, help, `make help`, docs/operations.md.

serve/settings.py parses them. Standard library only.
"""

from dataclasses import replace

from export.names import MODEL_NAME_ALLOWED, PRECISIONS
from gateway import setting_table as gateway
from gateway.setting_table import Setting

EXPORT, START, SETUP = "export", "start", "set-up"
MODEL, REPOSITORY, MEMORY = "model", "model repository", "memory"
COUNT = "a whole number of at least 1, or auto"

CHECKPOINT = Setting(
    "MODEL_CHECKPOINT",
    MODEL,
    "checkpoint to serve: a file or directory, as training left it",
    "SmolLM2-135M-Instruct",
    "PATH",
    EXPORT,
)
MODEL_NAME = replace(
    gateway.MODEL_NAME,
    meaning="name of the model; one in the model repository is served without a checkpoint",
    default="from the name of the checkpoint or its directory",
    read_by=f"{EXPORT}, {gateway.GATEWAY}",
    allowed=MODEL_NAME_ALLOWED,
)
EXPORT_SETTINGS = (
    MODEL_NAME,
    Setting(
        "PRECISION",
        MODEL,
        f"how weights are stored: {', '.join(PRECISIONS)}; auto decides by the checkpoint and this machine's processor",
        "auto",
        "NAME",
        EXPORT,
        ", ".join(PRECISIONS),
    ),
    Setting(
        "TOKENIZER",
        MODEL,
        "gpt2, a tokenizer.json, SentencePiece .model, .tiktoken, vocab.txt or meta.pkl, or a directory with one",
        "the checkpoint's own",
        "PATH",
        EXPORT,
    ),
    Setting("CHAT_TEMPLATE", MODEL, "dolly, none or a Jinja file", "the checkpoint's own", "PATH", EXPORT),
    Setting(
        "HEADS", MODEL, "attention heads, if the checkpoint does not store them", "as the checkpoint says", "N", EXPORT, COUNT
    ),
    Setting(
        "CONTEXT_LENGTH",
        MODEL,
        "tokens per sequence, prompt and answer together",
        "the model's own, at most 2048",
        "N",
        EXPORT,
        COUNT,
    ),
)
MODEL_REPOSITORY = Setting(
    "MODEL_REPOSITORY",
    REPOSITORY,
    "directory of exported models",
    "model_repository/ in a clone, else ~/.local/share/tidegate/model_repository",
    "DIRECTORY",
    f"{EXPORT}, {START}",
)
START_SETTINGS = (
    Setting(
        "MODELS",
        REPOSITORY,
        "other models of the repository to serve as well: names separated by commas, or all",
        "none",
        "NAMES",
        START,
    ),
    Setting(
        "SLOTS",
        MEMORY,
        "sequences cached at once, whose memory is then reserved at the start",
        "up to 32, by the free memory; it grows with use",
        "N",
        START,
        COUNT,
    ),
)
PYTHON = Setting(
    "PYTHON", SETUP, "the Python that makes .venv, 3.11 to 3.13", "python3, else one of them on PATH", "PATH", SETUP
)

OF_EXPORT = (*EXPORT_SETTINGS, MODEL_REPOSITORY)
OF_SERVE = (*OF_EXPORT, *START_SETTINGS, *gateway.SETTINGS)
ALL = (CHECKPOINT, *OF_SERVE, PYTHON)  # everything that `make` accepts
