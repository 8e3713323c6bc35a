"""``tools`` and ``tool_choice`` in the forms of OpenAI's two routes, and the resulting ToolUse."""

# ruff: noqa: RUF012  pydantic copies a mutable default for every body

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gateway.api.schemas.base import AnyObject, AnyString, Flag, OpenAIBody, WrongPart
from gateway.api.schemas.sampling import SamplingBody
from gateway.errors import InvalidRequest, echo
from gateway.text.tool_calls import Tool, ToolUse

MOST_TOOLS = 128  # as in OpenAI's API
MODES = ("none", "auto", "required")
NAME = Field(pattern="^[a-zA-Z0-9_-]{1,64}$", description="a string of 1 to 64 letters, digits, underscores and dashes")
FunctionName = Annotated[str, NAME]
FunctionKind = Annotated[Literal["function"], Field(description='"function"; other tools are not known here')]


NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


class FunctionFields(OpenAIBody):
    name: FunctionName
    description: AnyString = ""
    parameters: Annotated[AnyObject, Field(description="a JSON schema of an object")] = NO_PARAMETERS
    strict: Flag = False


class ChatTool(OpenAIBody):
    type: FunctionKind
    function: Annotated[FunctionFields, Field(description='an object, {"name": "...", "parameters": {...}}')]


class ResponsesTool(FunctionFields):
    """A tool whose function's fields are next to its type."""

    type: FunctionKind

    def echoed(self) -> dict[str, Any]:
        """Returns the tool as a response repeats it."""
        return {"type": self.type, **self.model_dump(include={"name", "description", "parameters", "strict"})}


class NamedFunction(OpenAIBody):
    name: FunctionName


class ChatToolName(OpenAIBody):
    type: FunctionKind = "function"
    function: Annotated[NamedFunction, Field(description='an object, {"name": "..."}')]


class ResponsesToolName(OpenAIBody):
    type: FunctionKind = "function"
    name: FunctionName


_Mode = Annotated[Literal["auto", "required"], Field(description='"auto" or "required"')]
_NAMED = Field(fail_fast=True, min_length=1, max_length=MOST_TOOLS, description="a list of tools by their names")


class AllowedTools(OpenAIBody):
    mode: _Mode = "auto"
    tools: Annotated[list[ChatToolName], _NAMED]


def _as_object(choice: object) -> object:
    """Turns a mode, which clients send as a string, into an object of that type."""
    is_mode = isinstance(choice, str) and choice in MODES
    if not is_mode and (not isinstance(choice, dict) or choice.get("type") in MODES):
        raise ValueError("no choice")
    return {"type": choice} if is_mode else choice


_Kind = Annotated[
    Literal["none", "auto", "required", "function", "allowed_tools"], Field(description='"function" or "allowed_tools"')
]


class ToolChoice(OpenAIBody):
    type: _Kind

    @abstractmethod
    def named(self) -> tuple[str, list[str]]:
        """Returns the name of the field with function names, and the names; an empty list if the field is missing."""

    @abstractmethod
    def _mode_of_allowed(self) -> str: ...

    @property
    def mode(self) -> str:
        if self.type == "allowed_tools":
            return self._mode_of_allowed()
        return "required" if self.type == "function" else self.type


class ChatToolChoice(ToolChoice):
    function: Annotated[NamedFunction | None, Field(description='an object, {"name": "..."}')] = None
    allowed_tools: Annotated[AllowedTools | None, Field(description='an object, {"mode": "auto", "tools": [...]}')] = None

    def named(self) -> tuple[str, list[str]]:
        if self.type == "allowed_tools":
            return "allowed_tools", [tool.function.name for tool in self.allowed_tools.tools] if self.allowed_tools else []
        return "function", [self.function.name] if self.function else []

    def _mode_of_allowed(self) -> str:
        return self.allowed_tools.mode if self.allowed_tools else "auto"


class ResponsesToolChoice(ToolChoice):
    name: Annotated[str | None, NAME] = None
    allowed_mode: Annotated[_Mode, Field(alias="mode")] = "auto"
    tools: Annotated[list[ResponsesToolName], _NAMED] = []

    def named(self) -> tuple[str, list[str]]:
        if self.type == "allowed_tools":
            return "tools", [tool.name for tool in self.tools]
        return "name", [self.name] if self.name else []

    def _mode_of_allowed(self) -> str:
        return self.allowed_mode

    def echoed(self) -> str | dict[str, Any]:
        """Returns the choice as a response repeats it."""
        return self.type if self.type in MODES else self.model_dump(by_alias=True, exclude_unset=True)


class ToolBody(SamplingBody):
    """Fields of a route with tools. Each subclass has ``tools`` and ``tool_choice`` in its own form."""

    parallel_tool_calls: Flag = True

    @abstractmethod
    def functions(self) -> list[tuple[str, FunctionFields]]:
        """Returns the functions in ``tools``, each with the path of its fields."""

    @abstractmethod
    def choice(self) -> ToolChoice: ...

    @cached_property
    def tool_use(self) -> ToolUse | None:
        """The tools that the model may call; None: no calls. Raises InvalidRequest."""
        tools = _tools(self.functions())
        choice = self.choice()
        names = tuple(tool.name for tool in tools)
        if choice.type in ("function", "allowed_tools"):
            names = tuple(_known_names(choice, names))
        if not tools and choice.mode == "required":
            raise InvalidRequest(f"tool_choice is {echo(choice.type)}; it needs tools.", param="tool_choice")
        if not tools or choice.mode == "none":
            return None
        parallel = self.parallel_tool_calls and choice.type != "function"
        return ToolUse(tuple(tools), names, required=choice.mode == "required", parallel=parallel)

    @model_validator(mode="after")
    def _tools_fit(self) -> Self:
        if self.tool_use is None:
            return self
        if self.alternatives is not None:
            message = f'{self.logprobs_field} cannot go with tools; ask for one of them, or set tool_choice to "none".'
            raise InvalidRequest(message, param=self.logprobs_field)
        if not self.tool_use.required and self.grammar() is not None:
            message = f'{self.format_field} cannot go with tools; leave one out, or set tool_choice to "none" or "required".'
            raise InvalidRequest(message, param=self.format_field)
        return self


def _tools(functions: list[tuple[str, FunctionFields]]) -> list[Tool]:
    tools: dict[str, Tool] = {}
    for path, function in functions:
        if function.name in tools:
            raise InvalidRequest(f"{path}.name is {echo(function.name)}, as of another tool.", param=f"{path}.name")
        if (kind := function.parameters.get("type", "object")) != "object":
            raise InvalidRequest(
                f'{path}.parameters.type is {echo(kind)}; it must be "object".', param=f"{path}.parameters.type"
            )
        tools[function.name] = Tool(
            function.name, function.description, function.parameters, function.strict, f"{path}.parameters"
        )
    return list(tools.values())


def _known_names(choice: ToolChoice, known: Sequence[str]) -> list[str]:
    field, names = choice.named()
    path = f"tool_choice.{field}"
    if not names:
        raise InvalidRequest(f'{path} is missing; tool_choice.type "{choice.type}" needs it.', param=path)
    for name in names:
        if name not in known:
            raise InvalidRequest(f"{path} names {echo(name)}; tools has no function of that name.", param=path)
    return list(dict.fromkeys(names))


CHOICE = '"none", "auto", "required", or an object that names a function or allowed tools'


def _functions_only(tools: object) -> object:
    """Raises WrongPart if a tool is not a function, before its fields are checked."""
    for place, tool in enumerate(tools[:MOST_TOOLS] if isinstance(tools, list) else ()):
        if isinstance(tool, dict) and tool.get("type", "function") != "function":
            raise WrongPart(f"[{place}].type is {echo(tool['type'])}")
    return tools


_TOOLS = Field(fail_fast=True, max_length=MOST_TOOLS, description=f'a list of up to {MOST_TOOLS} tools of type "function"')


def _choice(kind: type[ToolChoice]) -> BeforeValidator:
    return BeforeValidator(_as_object, json_schema_input_type=Literal["none", "auto", "required"] | kind)


class ChatTools(ToolBody):
    tools: Annotated[list[ChatTool], _TOOLS, BeforeValidator(_functions_only)] = []
    tool_choice: Annotated[ChatToolChoice, _choice(ChatToolChoice), Field(description=CHOICE)] = ChatToolChoice(type="auto")

    def functions(self) -> list[tuple[str, FunctionFields]]:
        return [(f"tools[{index}].function", tool.function) for index, tool in enumerate(self.tools)]

    def choice(self) -> ToolChoice:
        return self.tool_choice


class ResponsesTools(ToolBody):
    tools: Annotated[list[ResponsesTool], _TOOLS, BeforeValidator(_functions_only)] = []
    tool_choice: Annotated[ResponsesToolChoice, _choice(ResponsesToolChoice), Field(description=CHOICE)] = ResponsesToolChoice(
        type="auto"
    )

    def functions(self) -> list[tuple[str, FunctionFields]]:
        return [(f"tools[{index}]", tool) for index, tool in enumerate(self.tools)]

    def choice(self) -> ToolChoice:
        return self.tool_choice
