"""Response types of the generating routes, built by the serializers and described in the OpenAPI document."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic does not support Python 3.11's own TypedDict

FinishReason = Literal["stop", "length"]
ChatFinishReason = Literal["stop", "length", "tool_calls"]


class CachedTokens(TypedDict):
    cached_tokens: int  # prompt tokens found in the KV cache


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


class PromptLogprob(TypedDict):
    logprob: float
    rank: int  # in the whole vocabulary: 1 is the most probable
    decoded_token: str


# For each prompt token: the token and the most probable ones at its position, by id. None for the first, as in vLLM.
PromptLogprobs = list[dict[str, PromptLogprob] | None]


class CalledFunction(TypedDict):
    name: str
    arguments: str  # JSON


class ToolCall(TypedDict):
    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatAnswer(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(TypedDict):
    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason
    token_ids: NotRequired[list[int]]  # with return_token_ids


class _Envelope(TypedDict):
    id: str
    created: int
    model: str
    system_fingerprint: str | None


class ChatCompletion(_Envelope):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: NotRequired[PromptLogprobs]
    prompt_token_ids: NotRequired[list[int]]  # with return_token_ids


class FunctionDelta(TypedDict):
    name: NotRequired[str]
    arguments: str


class ToolCallDelta(TypedDict):
    """The first delta of a call has its id, type and name."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class ChatDelta(TypedDict, total=False):
    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCallDelta]


class ChunkChoice(TypedDict):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None
    token_ids: NotRequired[list[int]]


class ChatCompletionChunk(_Envelope):
    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: NotRequired[Usage | None]
    prompt_token_ids: NotRequired[list[int]]  # in the first chunk, with return_token_ids


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
    prompt_logprobs: NotRequired[PromptLogprobs]
    prompt_token_ids: NotRequired[list[int]]  # with return_token_ids, in the first chunk
    token_ids: NotRequired[list[int]]


class Completion(_Envelope):
    """A whole completion, or a chunk of it."""

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


class OutputCall(TypedDict):
    id: str
    type: Literal["function_call"]
    status: Literal["in_progress", "completed", "incomplete"]
    call_id: str
    name: str
    arguments: str  # JSON


class InputDetails(CachedTokens):
    cache_write_tokens: int


class ResponseUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class Response(TypedDict):
    """/v1/responses. Repeats the request's parameters."""

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
    output: list[OutputMessage | OutputCall]
    usage: ResponseUsage | None
    text: dict[str, Any]
    max_output_tokens: int | None
    temperature: float
    top_p: float
    top_logprobs: int
    presence_penalty: float
    frequency_penalty: float
    truncation: Literal["disabled"]
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    background: Literal[False]
    store: Literal[False]
    previous_response_id: None
    reasoning: dict[str, None]
    service_tier: Literal["default"]
    metadata: dict[str, str]
    user: str | None


class ResponseEvent(TypedDict):
    """An event of /v1/responses' stream. The other fields depend on its type and match OpenAI's."""

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
    finish_reason: NotRequired[FinishReason]  # with the usage, in the last event
    usage: NotRequired[Usage]


class GeneratedEvent(TypedDict):
    """An event of /generate's stream."""

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
