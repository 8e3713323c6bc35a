"""What a client may send. Every field says in one phrase what is allowed; that phrase is part of the error message.

Types are strict (the string "5" is no integer, nor is true), unknown fields are refused by name.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from gateway.generation import GenerationRequest, SamplingParameters

LARGEST_TOP_K = 1_000_000  # beyond any vocabulary
LARGEST_MAX_TOKENS = 1_000_000  # beyond any context: the context's end stops a text anyway


def integer(lowest: int, highest: int, note: str = "") -> FieldInfo:
    field: FieldInfo = Field(ge=lowest, le=highest, description=f"an integer from {lowest} to {highest}{note}")
    return field


def number(lowest: float, highest: float) -> FieldInfo:
    field: FieldInfo = Field(ge=lowest, le=highest, description=f"a number from {lowest} to {highest}")
    return field


MaxTokens = Annotated[int, integer(1, LARGEST_MAX_TOKENS)]
OptionalMaxTokens = Annotated[int | None, integer(1, LARGEST_MAX_TOKENS)]
Temperature = Annotated[float, number(0.0, 2.0)]
TopK = Annotated[int, integer(0, LARGEST_TOP_K, " (0: all tokens)")]
TopP = Annotated[float, number(0.0, 1.0)]
Penalty = Annotated[float, number(-2.0, 2.0)]
Seed = Annotated[int | None, integer(-(2**63), 2**63 - 1)]
Flag = Annotated[bool, Field(description="true or false")]
AnyString = Annotated[str, Field(description="a string")]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class GenerateBody(Body):
    """``POST /generate``"""

    prompt: Annotated[str, Field(min_length=1, description="a string that is not empty")]
    max_length: Annotated[int, integer(1, 512)] = 150  # new tokens
    temperature: Temperature = 0.7
    top_k: TopK = 50
    seed: Seed = None
    stream: Flag = False

    def generation(self, prompt_tokens: list[int]) -> GenerationRequest:
        sampling = SamplingParameters(temperature=self.temperature, top_k=self.top_k)
        return GenerationRequest(prompt_tokens, self.max_length, sampling, self.seed)


class OpenAIBody(Body):
    """The SDKs send null for what is not set, and an earlier answer has nulls in it: null means the default everywhere."""

    @model_validator(mode="before")
    @classmethod
    def _null_means_default(cls, fields: object) -> object:
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None}


def _text_of_parts(content: object) -> object:
    """A list of text parts is their texts, a line each."""
    return "\n".join(map(_text_of_part, content)) if isinstance(content, list) else content


def _text_of_part(part: object) -> str:
    match part:
        case {"type": "text", "text": str(text), **others} if not others:
            return text
        case _:
            raise ValueError("not a text part")


class ChatMessage(OpenAIBody):
    role: Annotated[
        Literal["system", "developer", "user", "assistant"],
        Field(description='"system", "developer", "user" or "assistant"'),
    ]
    content: Annotated[
        str,
        BeforeValidator(_text_of_parts),
        Field(description='a string or a list of text parts, {"type": "text", "text": "..."}'),
    ]

    def for_template(self) -> dict[str, str]:
        """Templates know no "developer": it is OpenAI's newer word for "system"."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class StreamOptions(OpenAIBody):
    include_usage: Flag = False


class ResponseFormat(OpenAIBody):
    type: Annotated[Literal["text"], Field(description='"text"')] = "text"


StopStrings = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop),
    Field(max_length=4, description="a string, or a list of up to 4 strings, none of them empty"),
]


class ChatBody(OpenAIBody):
    """``POST /v1/chat/completions``"""

    model: Annotated[str, Field(description="the name of a model in GET /v1/models")]
    messages: Annotated[list[ChatMessage], Field(min_length=1, description="a list of at least one message")]
    max_tokens: MaxTokens = 150
    max_completion_tokens: OptionalMaxTokens = None  # the newer name; it wins where both are given
    temperature: Temperature = 0.7
    top_k: TopK = 50
    top_p: TopP = 0.9
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    stop: StopStrings = []
    seed: Seed = None
    stream: Flag = False
    stream_options: Annotated[StreamOptions, Field(description='an object, {"include_usage": true or false}')] = StreamOptions()

    # What clients send though it changes nothing here: accepted only where nothing is asked that would be left undone.
    n: Annotated[int, Field(ge=1, le=1, description="1")] = 1
    logprobs: Annotated[Literal[False], Field(description="false")] = False
    response_format: Annotated[ResponseFormat, Field(description='{"type": "text"}')] = ResponseFormat()
    user: AnyString = ""
    safety_identifier: AnyString = ""
    prompt_cache_key: AnyString = ""
    service_tier: Annotated[Literal["auto", "default"], Field(description='"auto" or "default"')] = "auto"
    store: Flag = False
    metadata: Annotated[dict[str, str], Field(description="an object of strings")] = {}

    def generation(self, prompt_tokens: list[int]) -> GenerationRequest:
        sampling = SamplingParameters(self.temperature, self.top_k, self.top_p, self.presence_penalty, self.frequency_penalty)
        max_tokens = self.max_completion_tokens or self.max_tokens
        return GenerationRequest(prompt_tokens, max_tokens, sampling, self.seed, tuple(self.stop), prompt_field="messages")
