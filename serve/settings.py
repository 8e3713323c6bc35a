"""The settings of `tidegate serve` and `tidegate export`. For their meaning, see serve/setting_table.py.

Standard library only: they are checked before anything is installed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from export.names import AUTO, MODEL_NAME, MODEL_NAME_ALLOWED, PRECISIONS, default_name
from gateway.settings import VARIABLES as GATEWAY_VARIABLES
from gateway.settings import Settings as GatewaySettings
from gateway.settings import SettingsError, refuse_misspelt
from serve.paths import MODEL_REPOSITORY

ALL = "all"  # in MODELS: every model in the repository
CHAT_TEMPLATES = ("dolly", "none")  # besides the path of a Jinja file


@dataclass(frozen=True)
class Settings:
    gateway: GatewaySettings  # PORT, HOST, MY_API_KEY, MODEL_NAME, TRITON_URL, …; the gateway process parses them again
    own_triton: bool = True  # False: TRITON_URL names a running one
    checkpoint: Path | None = None  # None: the demonstration model
    precision: str = AUTO
    tokenizer: str | None = None  # `gpt2` or a path; None: the checkpoint's own
    chat_template: str | None = None  # `dolly`, `none` or a path; None: the checkpoint's own
    heads: int | None = None  # None: as the checkpoint says
    context_length: int | None = None  # None: the model's own, at most 2048
    slots: int | None = None  # reserved at the start. None: up to 32, depending on free memory; memory then grows with use
    model_repository: Path = MODEL_REPOSITORY
    models: tuple[str, ...] = ()  # served in addition to the model that is started; (ALL,): all in the repository

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """An empty variable counts as not set. Raises SettingsError for the first invalid or misspelt one."""
        refuse_misspelt(environment, VARIABLES)
        values = {name: text.strip() for name, text in environment.items() if text.strip()}
        name = values.get("MODEL_NAME")
        if name and "TRITON_URL" not in values and not MODEL_NAME.fullmatch(name):
            raise SettingsError(f"MODEL_NAME is {name!r}; allowed are {MODEL_NAME_ALLOWED}.")
        return cls(
            gateway=GatewaySettings.from_environment(environment),
            own_triton="TRITON_URL" not in values,
            checkpoint=_path(values, "MODEL_CHECKPOINT"),
            precision=_precision(values),
            tokenizer=_tokenizer(values),
            chat_template=_chat_template(values),
            heads=_count(values, "HEADS"),
            context_length=_count(values, "CONTEXT_LENGTH"),
            slots=_count(values, "SLOTS"),
            model_repository=_repository(values),
            models=_models(values),
        )

    def model_name(self, checkpoint: Path) -> str:
        return self.gateway.model_name or default_name(checkpoint)


VARIABLES = (
    GATEWAY_VARIABLES
    | {field.name.upper() for field in fields(Settings)} - {"GATEWAY", "OWN_TRITON", "CHECKPOINT"}
    | {"MODEL_CHECKPOINT", "PYTHON"}
)


def _repository(values: Mapping[str, str]) -> Path:
    if "MODEL_REPOSITORY" not in values:
        return MODEL_REPOSITORY
    path = Path(values["MODEL_REPOSITORY"]).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise SettingsError(f"MODEL_REPOSITORY is {str(path)!r}, which is not a directory.")
    return path


def _models(values: Mapping[str, str]) -> tuple[str, ...]:
    names = tuple(filter(None, map(str.strip, values.get("MODELS", "").split(","))))
    for name in names:
        if not MODEL_NAME.fullmatch(name):
            raise SettingsError(f"MODELS has {name[:80]!r}; it must be `all`, or names of models separated by commas.")
    return names


def _path(values: Mapping[str, str], variable: str) -> Path | None:
    if variable not in values:
        return None
    path = Path(values[variable]).expanduser()
    if not path.exists():
        raise SettingsError(f"{variable} is {str(path)!r}; there is no such file or directory.")
    return path


def _tokenizer(values: Mapping[str, str]) -> str | None:
    if values.get("TOKENIZER") == "gpt2":
        return "gpt2"
    path = _path(values, "TOKENIZER")
    return str(path) if path else None


def _precision(values: Mapping[str, str]) -> str:
    precision = values.get("PRECISION", AUTO)
    if precision not in PRECISIONS:
        raise SettingsError(f"PRECISION is {precision!r}; it must be one of {', '.join(PRECISIONS)}.")
    return precision


def _chat_template(values: Mapping[str, str]) -> str | None:
    template = values.get("CHAT_TEMPLATE")
    if template is None or template in CHAT_TEMPLATES:
        return template
    path = Path(template).expanduser()
    if not path.is_file():
        named = ", ".join(CHAT_TEMPLATES)
        raise SettingsError(f"CHAT_TEMPLATE is {template!r}; it must be {named} or a Jinja file that exists.")
    return str(path)


def _count(values: Mapping[str, str], variable: str) -> int | None:
    text = values.get(variable)
    if text is None or text == "auto":
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) < 10**9):
        raise SettingsError(f"{variable} is {text[:40]!r}; it must be a whole number of at least 1, or `auto`.")
    return int(text)
