"""Request bodies of the generating routes."""

# ruff: noqa: RUF012  pydantic copies a mutable default for every body

from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from gateway.api.schemas.base import (
    LARGEST_MAX_TOKENS,
    MOST_CHOICES,
    MOST_MESSAGES,
    FilledString,
    Flag,
    ModelName,
    OpenAIBody,
    OptionalMaxTokens,
    OptionalString,
    integer,
)
from gateway.api.schemas.formats import TextFormat
from gateway.api.schemas.history import chat_conversation, input_conversation
from gateway.api.schemas.messages import ChatMessage, InputItem, TemplateVariables
from gateway.api.schemas.sampling import ChangesNothing, CompletionBase, Formatted, Fraction, Obfuscation, SamplingBody
from gateway.api.schemas.tools import ChatTools, ResponsesTools
from gateway.errors import InvalidRequest
from gateway.text.grammar import Grammar


class GenerateBody(Formatted):
    """``POST /generate``"""

    max_tokens_field: ClassVar[str] = "max_length"

    prompt: FilledString
    max_length: Annotated[int, integer(1, 512)] = 150  # new tokens
    top_p: Fraction = 1.0

    @property
    def answer_tokens(self) -> int:
        return self.max_length


class ChatBody(CompletionBase, ChatTools):
    """``POST /v1/chat/completions``"""

    prompt_field: ClassVar[str] = "messages"
    only_with: ClassVar[dict[str, str]] = {**CompletionBase.only_with, "top_logprobs": "logprobs"}

    model: ModelName
    messages: Annotated[
        list[ChatMessage],
        Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES, description=f"a list of 1 to {MOST_MESSAGES} messages"),
    ]
    max_tokens: OptionalMaxTokens = None
    max_completion_tokens: OptionalMaxTokens = None  # the newer name; takes precedence if both are given
    logprobs: Flag = False
    top_logprobs: Annotated[int | None, integer(0, 20, ', only with "logprobs": true')] = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True, min_length=1, max_length=1, description='["text"]')] = [
        "text"
    ]  # changes nothing
    chat_template_kwargs: TemplateVariables = {}

    @property
    def answer_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def copies(self) -> int:
        return self.n

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @cached_property
    def conversation(self) -> list[dict[str, Any]]:
        """The conversation in the form that chat templates read."""
        return chat_conversation(self.messages)

    @model_validator(mode="after")
    def _conversation_fits(self) -> Self:
        assert self.conversation
        return self


Prompt = str | list[int]
PROMPTS = f"a string, a list of token ids, or a list of up to {MOST_CHOICES} strings or lists of token ids, none of them empty"


def _prompts(prompt: object) -> list[Prompt]:
    """Returns a list of prompts, whether one or many are given."""
    kinds = _kinds_in(prompt)
    if kinds == {int}:
        return [prompt]  # type: ignore[list-item]
    prompts = prompt if kinds in ({str}, {list}) else [prompt]
    assert isinstance(prompts, list)
    if len(prompts) > MOST_CHOICES:
        raise PydanticCustomError("too_long", "too many prompts")
    if not all(one and (isinstance(one, str) or _kinds_in(one) == {int}) for one in prompts):
        raise ValueError("no prompt")
    return prompts


def _kinds_in(value: object) -> set[type]:
    """Returns the types of a list's elements, computed in C: there may be half a million token ids."""
    return set(map(type, value)) if isinstance(value, list) else set()


_Id = Annotated[int, Field(ge=0)]
_Ids = Annotated[list[_Id], Field(min_length=1)]
_Text = Annotated[str, Field(min_length=1)]
_Several = Annotated[list[_Text], Field(min_length=1, max_length=MOST_CHOICES)]
_SeveralIds = Annotated[list[_Ids], Field(min_length=1, max_length=MOST_CHOICES)]


class CompletionBody(CompletionBase):
    """``POST /v1/completions``"""

    model: ModelName
    prompt: Annotated[
        list[Any],
        BeforeValidator(_prompts, json_schema_input_type=_Text | _Ids | _Several | _SeveralIds),
        Field(description=PROMPTS),
    ]
    max_tokens: Annotated[int, integer(0, LARGEST_MAX_TOKENS, ' (0: only with "echo": true)')] = 16  # as in OpenAI's API
    best_of: Annotated[int | None, integer(1, MOST_CHOICES)] = None
    echo: Flag = False
    logprobs: Annotated[int | None, integer(0, 5)] = None

    @property
    def answer_tokens(self) -> int:
        return self.max_tokens

    @property
    def copies(self) -> int:
        return self.best_of or self.n

    @property
    def alternatives(self) -> int | None:
        if self.logprobs is None and (self.copies > self.n or self._only_echo):
            return 0  # for ranking best_of; with max_tokens 0, for the prompt's log-probabilities
        return self.logprobs

    @property
    def prompt_alternatives(self) -> int | None:
        echoed = self.alternatives if self._only_echo or (self.echo and self.logprobs is not None) else None
        return max((count for count in (echoed, self.prompt_logprobs) if count is not None), default=None)

    @property
    def _only_echo(self) -> bool:
        return self.max_tokens == 0

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequest('max_tokens is 0; it must be at least 1, or go with "echo": true.', param="max_tokens")
        if self.copies < self.n:
            raise InvalidRequest(f"best_of is {self.best_of}; it must be at least n, {self.n}.", param="best_of")
        if self.stream and self.copies > self.n:
            message = f"best_of is {self.best_of}; in a stream it must be n, {self.n}: the best is only known at the end."
            raise InvalidRequest(message, param="best_of")
        if len(self.prompt) * self.copies > MOST_CHOICES:
            asked = f"prompt has {len(self.prompt)} prompts and each gets {self.copies} texts"
            raise InvalidRequest(f"{asked}; a request may have up to {MOST_CHOICES} texts.", param="prompt")
        return self


class TextOptions(OpenAIBody):
    format: Annotated[TextFormat, Field(description='an object, such as {"type": "json_object"}')] = TextFormat()


def _messages(value: object) -> object:
    return [{"role": "user", "content": value}] if isinstance(value, str) and value else value


_InputItems = Annotated[list[InputItem], Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES)]
LOGPROBS, REASONING = "message.output_text.logprobs", "reasoning.encrypted_content"


class ResponsesBody(OpenAIBody, ResponsesTools, ChangesNothing, SamplingBody):
    """``POST /v1/responses``"""

    prompt_field: ClassVar[str] = "input"
    max_tokens_field: ClassVar[str] = "max_output_tokens"
    format_field: ClassVar[str] = "text.format"
    logprobs_field: ClassVar[str] = "top_logprobs"
    only_with: ClassVar[dict[str, str]] = {"stream_options": "stream"}

    model: ModelName
    input: Annotated[
        _InputItems,
        BeforeValidator(_messages, json_schema_input_type=_Text | _InputItems),
        Field(description=f"a string that is not empty, or a list of 1 to {MOST_MESSAGES} messages, calls and their outputs"),
    ]
    instructions: OptionalString = None
    max_output_tokens: OptionalMaxTokens = None
    text: Annotated[TextOptions, Field(description='an object, {"format": {"type": "..."}}')] = TextOptions()
    include: Annotated[
        list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]],
        Field(fail_fast=True, max_length=2, description=f'a list of "{LOGPROBS}", "{REASONING}", or neither'),
    ] = []
    top_logprobs: Annotated[int | None, integer(0, 20)] = None
    stream_options: Annotated[
        Obfuscation, Field(description='an object, {"include_obfuscation": true or false}, only with "stream": true')
    ] = Obfuscation()
    truncation: Annotated[Literal["disabled"], Field(description='"disabled"')] = "disabled"  # changes nothing

    @property
    def answer_tokens(self) -> int | None:
        return self.max_output_tokens

    @property
    def alternatives(self) -> int | None:
        """OpenAI returns log-probabilities if `include` lists them; here top_logprobs is enough."""
        return self.top_logprobs or 0 if LOGPROBS in self.include or self.top_logprobs else None

    def grammar(self) -> Grammar | None:
        return self.text.format.compiled_from("text.format")

    @cached_property
    def conversation(self) -> list[dict[str, Any]]:
        """The conversation in the form that chat templates read."""
        return input_conversation(self.instructions, self.input)

    @model_validator(mode="after")
    def _conversation_fits(self) -> Self:
        assert self.conversation
        return self
