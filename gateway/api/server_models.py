"""What the routes about the server itself answer, and the bodies of errors, as types."""

from typing import Any, Literal

from typing_extensions import TypedDict  # that of Python 3.11 is not enough for pydantic


class About(TypedDict):
    """/v1"""

    object: Literal["api"]
    name: str
    default_model: str
    endpoints: list[str]


class ModelMeta(TypedDict):
    """As at llama.cpp."""

    n_vocab: int
    n_ctx_train: int


class Model(TypedDict):
    """One of /v1/models: what clients of OpenAI, vLLM, llama.cpp and Anthropic read, in one object."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str  # as at vLLM, up to the context's length: what it was made from, and what it adapts
    parent: None
    max_model_len: int
    meta: ModelMeta
    type: Literal["model"]  # as at Anthropic, up to the time
    display_name: str
    created_at: str
    checkpoint: str
    context_length: int
    chat_template: bool


class Models(TypedDict):
    """/v1/models; all of them are on its one page."""

    object: Literal["list"]
    data: list[Model]
    has_more: Literal[False]
    first_id: str | None
    last_id: str | None


class Load(TypedDict):
    running: int
    waiting: int


class ModelLoad(Load):
    version: str  # that takes new texts
    precision: str
    devices: list[str]  # that its Tritons compute on: cpu, cuda
    older: dict[str, Load]  # versions that finish the texts they have begun


class Loads(TypedDict):
    models: dict[str, ModelLoad]


class Health(TypedDict):
    """/health"""

    status: Literal["success"]
    data: Loads


class Alive(TypedDict):
    """/livez, /readyz"""

    status: Literal["success"]
    data: dict[str, Any]


class OpenAIErrorDetail(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(TypedDict):
    error: OpenAIErrorDetail


class ErrorDetail(TypedDict):
    type: str
    message: str


class Error(TypedDict):
    status: Literal["error"]
    error: ErrorDetail
