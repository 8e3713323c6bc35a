"""The answers of the generating routes, as types: what the serializers build and what the OpenAPI document describes."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # that of Python 3.11 is not enough for pydantic

FinishReason = Literal["stop", "length"]


class CachedTokens(TypedDict):
    cached_tokens: int  # of the prompt, that an earlier request had left in the cache


class ReasoningTokens(TypedDict):
    reasoning_tokens: int


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class Logprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    content: list[Logprob]
    refusal: None


class ChatAnswer(TypedDict):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class _Envelope(TypedDict):
    id: str
    created: int
    model: str
    system_fingerprint: str | None


class ChatCompletion(_Envelope):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(TypedDict, total=False):
    role: Literal["assistant"]
    content: str


class ChunkChoice(TypedDict):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(_Envelope):
    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: NotRequired[Usage | None]


class CompletionLogprobs(TypedDict):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(_Envelope):
    """Whole, or a piece of it."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: NotRequired[Usage | None]


class OutputText(TypedDict):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Logprob]


class OutputMessage(TypedDict):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class InputDetails(CachedTokens):
    cache_write_tokens: int


class ResponseUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class Response(TypedDict):
    """/v1/responses; with what the request asked for."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: dict[str, str] | None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    model: str
    system_fingerprint: str | None
    output: list[OutputMessage]
    usage: ResponseUsage | None
    text: dict[str, Any]
    max_output_tokens: int
    temperature: float
    top_p: float
    top_logprobs: int
    presence_penalty: float
    frequency_penalty: float
    truncation: Literal["disabled"]
    tools: list[Any]
    tool_choice: str
    parallel_tool_calls: bool
    background: Literal[False]
    store: Literal[False]
    previous_response_id: None
    reasoning: dict[str, None]
    service_tier: Literal["default"]
    metadata: dict[str, str]
    user: str | None


class ResponseEvent(TypedDict):
    """An event of /v1/responses' stream; what else it has depends on its type, and is as at OpenAI."""

    type: str
    sequence_number: int


class GeneratedText(TypedDict):
    prompt: str
    generated_text: str


class Generated(TypedDict):
    """/generate"""

    status: Literal["success"]
    data: GeneratedText


class GeneratedPiece(TypedDict):
    text: str
    finish_reason: NotRequired[FinishReason]  # with the usage, in the last one
    usage: NotRequired[Usage]


class GeneratedEvent(TypedDict):
    """A piece of /generate's stream."""

    status: Literal["success"]
    data: GeneratedPiece


class Tokens(TypedDict):
    """/tokenize"""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(TypedDict):
    """/detokenize"""

    prompt: str


class About(TypedDict):
    """/v1"""

    object: Literal["api"]
    name: str
    default_model: str
    endpoints: list[str]


class Model(TypedDict):
    """One of /v1/models."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    checkpoint: str
    context_length: int
    chat_template: bool


class Models(TypedDict):
    """/v1/models"""

    object: Literal["list"]
    data: list[Model]


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
