"""Response types of /v1/messages and /v1/messages/count_tokens."""

from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic does not support Python 3.11's own TypedDict

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
    """The three input counts add up to the prompt's tokens."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int  # prompt tokens found in the KV cache
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
    """An event of /v1/messages' stream. The other fields depend on its type and match Anthropic's."""

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
