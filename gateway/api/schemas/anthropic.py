"""Request bodies of Anthropic's /v1/messages and /v1/messages/count_tokens."""

# ruff: noqa: RUF012  pydantic copies a mutable default for every body

from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gateway.api.schemas.anthropic_blocks import ContentBlock, anthropic_conversation
from gateway.api.schemas.base import (
    LONGEST_STOP,
    MOST_MESSAGES,
    AnyObject,
    AnyString,
    Flag,
    Label,
    MaxTokens,
    ModelName,
    OpenAIBody,
    number,
)
from gateway.api.schemas.messages import texts_of
from gateway.api.schemas.sampling import SamplingBody
from gateway.api.schemas.tools import MOST_TOOLS, FunctionName
from gateway.errors import InvalidRequest, echo
from gateway.text.grammar import Grammar
from gateway.text.tool_calls import Tool, ToolUse

MOST_STOPS = 16
_Object = Annotated[dict[str, Any], Field(description="an object")]


def _as_blocks(content: object) -> object:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


_Blocks = Annotated[list[ContentBlock], Field(fail_fast=True)]


class MessageParam(OpenAIBody):
    role: Annotated[Literal["user", "assistant"], Field(description='"user" or "assistant"; a system message goes in system')]
    content: Annotated[
        _Blocks,
        BeforeValidator(_as_blocks, json_schema_input_type=str | _Blocks),
        Field(description='a string or a list of blocks of the types "text", "tool_use" and "tool_result"'),
    ]


class Thinking(OpenAIBody):
    type: Annotated[Literal["disabled"], Field(description='"disabled": the models here do not think before they answer')]


class Metadata(OpenAIBody):
    user_id: Label = ""  # changes nothing


class ToolParam(OpenAIBody):
    type: Annotated[Literal["custom"], Field(description='"custom"; tools that a server runs are not known here')] = "custom"
    name: FunctionName
    description: AnyString = ""
    input_schema: Annotated[AnyObject, Field(description="a JSON schema of an object")]
    strict: Flag = False
    cache_control: _Object = {}  # changes nothing


class ToolChoiceParam(OpenAIBody):
    type: Annotated[Literal["auto", "any", "tool", "none"], Field(description='"auto", "any", "tool" or "none"')]
    name: Annotated[FunctionName | None, Field(description='the name of a tool, with type "tool"')] = None
    disable_parallel_tool_use: Flag = False


class CountTokensBody(OpenAIBody):
    """``POST /v1/messages/count_tokens``"""

    model: ModelName
    messages: Annotated[
        list[MessageParam],
        Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES, description=f"a list of 1 to {MOST_MESSAGES} messages"),
    ]
    system: Annotated[
        str,
        texts_of("text", beside=frozenset({"cache_control", "citations"})),
        Field(description='a string or a list of text blocks, {"type": "text", "text": "..."}'),
    ] = ""
    tools: Annotated[
        list[ToolParam], Field(fail_fast=True, max_length=MOST_TOOLS, description=f"a list of up to {MOST_TOOLS} tools")
    ] = []
    tool_choice: Annotated[ToolChoiceParam, Field(description='an object, such as {"type": "auto"}')] = ToolChoiceParam(
        type="auto"
    )
    thinking: Annotated[Thinking | None, Field(description='an object, {"type": "disabled"}')] = None
    cache_control: _Object = {}  # no effect: everything cacheable is cached

    @cached_property
    def conversation(self) -> list[dict[str, Any]]:
        """The conversation in the form that chat templates read."""
        return anthropic_conversation(self.system, self.messages)

    @cached_property
    def tool_use(self) -> ToolUse | None:
        """The tools that the model may call; None: text only. Raises InvalidRequest."""
        tools = self._tools()
        choice = self.tool_choice
        names = tuple(tools)
        if (choice.type == "tool") != (choice.name is not None):
            raise InvalidRequest(
                'tool_choice.name must be given with tool_choice.type "tool", and only then.', param="tool_choice.name"
            )
        if choice.name is not None and choice.name not in tools:
            message = f"tool_choice.name is {echo(choice.name)}; tools has none of that name."
            raise InvalidRequest(message, param="tool_choice.name")
        if choice.type == "any" and not tools:
            raise InvalidRequest('tool_choice.type is "any"; it needs tools.', param="tool_choice.type")
        if choice.type == "none" or not tools:
            return None
        parallel = not choice.disable_parallel_tool_use and choice.type != "tool"
        callable_ = (choice.name,) if choice.name is not None else names
        return ToolUse(tuple(tools.values()), callable_, required=choice.type != "auto", parallel=parallel)

    def _tools(self) -> dict[str, Tool]:
        tools: dict[str, Tool] = {}
        for index, tool in enumerate(self.tools):
            path = f"tools[{index}]"
            if tool.name in tools:
                raise InvalidRequest(f"{path}.name is {echo(tool.name)}, as of another tool.", param=f"{path}.name")
            field = f"{path}.input_schema"
            if (kind := tool.input_schema.get("type", "object")) != "object":
                raise InvalidRequest(f'{field}.type is {echo(kind)}; it must be "object".', param=f"{field}.type")
            tools[tool.name] = Tool(tool.name, tool.description, tool.input_schema, tool.strict, field)
        return tools

    @model_validator(mode="after")
    def _blocks_and_tools_fit(self) -> Self:
        assert self.conversation
        assert self.tool_use is None or self.tools
        return self


class MessagesBody(CountTokensBody, SamplingBody):
    """``POST /v1/messages``"""

    prompt_field: ClassVar[str] = "messages"

    model: ModelName
    max_tokens: MaxTokens
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]],
        Field(
            alias="stop_sequences",
            fail_fast=True,
            max_length=MOST_STOPS,
            description=f"a list of up to {MOST_STOPS} strings, each of 1 to {LONGEST_STOP} characters",
        ),
    ] = []
    temperature: Annotated[float, number(0.0, 1.0, " (0: always the most probable token)")] = 0.7
    metadata: Annotated[Metadata, Field(description='an object, {"user_id": "..."}')] = Metadata()  # changes nothing
    service_tier: Annotated[Literal["auto", "standard_only"], Field(description='"auto" or "standard_only"')] = "auto"

    @property
    def answer_tokens(self) -> int:
        return self.max_tokens

    def grammar(self) -> Grammar | None:
        return None
