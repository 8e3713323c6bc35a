"""The answers of /v1/messages and /v1/messages/count_tokens, as types."""

from typing import Any, Literal

from typing_extensions import TypedDict  # that of Python 3.11 is not enough for pydantic

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class TextBlock(TypedDict):
    type: Literal["text"]
    text: str


class ToolUseBlock(TypedDict):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


OutputBlock = TextBlock | ToolUseBlock


class MessageUsage(TypedDict):
    """All three of the input together are the prompt's tokens."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int  # that an earlier request had left in the cache
    output_tokens: int


class AnthropicMessage(TypedDict):
    """/v1/messages"""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[OutputBlock]
    stop_reason: StopReason | None  # null at the beginning of a stream
    stop_sequence: str | None
    usage: MessageUsage


class MessageEvent(TypedDict):
    """An event of /v1/messages' stream; what else it has depends on its type, and is as at Anthropic."""

    type: str


class InputTokens(TypedDict):
    """/v1/messages/count_tokens"""

    input_tokens: int


class AnthropicErrorDetail(TypedDict):
    type: str
    message: str


class AnthropicError(TypedDict):
    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str | None
