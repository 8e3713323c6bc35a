"""Response types of the routes about the server, and of errors."""

from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic does not support Python 3.11's own TypedDict


class About(TypedDict):
    """/v1"""

    object: Literal["api"]
    name: str
    default_model: str
    endpoints: list[str]


class ModelMeta(TypedDict):
    """As in llama.cpp."""

    n_vocab: int
    n_ctx_train: int


class Model(TypedDict):
    """A model in /v1/models, with the fields that clients of OpenAI, vLLM, llama.cpp and Anthropic read."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str  # the checkpoint; root, parent and max_model_len as in vLLM
    parent: None
    max_model_len: int
    meta: ModelMeta
    type: Literal["model"]  # type, display_name and created_at as in Anthropic's API
    display_name: str
    created_at: str
    checkpoint: str
    context_length: int
    chat_template: bool


class Models(TypedDict):
    """/v1/models. All models are on a single page."""

    object: Literal["list"]
    data: list[Model]
    has_more: Literal[False]
    first_id: str | None
    last_id: str | None


class Load(TypedDict):
    running: int
    waiting: int


class ModelLoad(Load):
    version: str  # the version that takes new requests
    precision: str
    devices: list[str]  # that its Triton servers compute on: cpu, cuda
    older: dict[str, Load]  # older versions that are finishing their requests


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
