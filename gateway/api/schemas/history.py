"""Converts a request's messages and items, including calls and results, to the conversation that chat templates read."""

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from gateway.api.schemas.base import require_finite
from gateway.api.schemas.messages import ChatMessage, InputItem
from gateway.errors import InvalidRequest, echo

Json = dict[str, Any]
FIELDS = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
}


class Conversation:
    """A conversation built message by message. Raises InvalidRequest for ``path``, a field of the message."""

    def __init__(self) -> None:
        self.messages: list[Json] = []
        self._names: dict[str, str] = {}  # names of called functions, by call id

    def add(self, role: str, content: str) -> None:
        """Adds a message. Renames "developer", OpenAI's newer word for "system", which templates do not know."""
        self.messages.append({"role": "system" if role == "developer" else role, "content": content})

    def add_text(self, role: str, text: str) -> None:
        """Adds text, as a new line of the previous message if that has the same role."""
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] = "\n".join(filter(None, [self.messages[-1]["content"], text]))
        else:
            self.add(role, text)

    def add_call(self, call_id: str, name: str, arguments: Json) -> None:
        """Adds a call to the previous message if that is the assistant's, else to a new one. Templates expect the arguments as
        an object."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.add("assistant", "")
        function = {"name": name, "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        self.messages[-1].setdefault("tool_calls", []).append(call)
        self._names[call_id] = name

    def add_result(self, path: str, call_id: str, content: str) -> None:
        if (name := self._names.get(call_id)) is None:
            raise InvalidRequest(f"{path} is {echo(call_id)}; no call before it has that id.", param=path)
        self.messages.append({"role": "tool", "tool_call_id": call_id, "name": name, "content": content})


def chat_conversation(messages: Sequence[ChatMessage]) -> list[Json]:
    """Converts chat messages to a conversation. Raises InvalidRequest."""
    conversation = Conversation()
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        if message.tool_calls and message.role != "assistant":
            raise _only(f"{path}.tool_calls", 'role "assistant"')
        if message.tool_call_id is not None and message.role != "tool":
            raise _only(f"{path}.tool_call_id", 'role "tool"')
        if message.content is None and not message.tool_calls:
            raise _missing(f"{path}.content", "a string or a list of text parts")
        if message.role != "tool":
            conversation.add(message.role, message.content or "")
        elif message.tool_call_id is None:
            raise _missing(f"{path}.tool_call_id", "the id of a call before it")
        else:
            conversation.add_result(f"{path}.tool_call_id", message.tool_call_id, message.content or "")
        for number, call in enumerate(message.tool_calls):
            field = f"{path}.tool_calls[{number}].function.arguments"
            conversation.add_call(call.id, call.function.name, _parsed(field, call.function.arguments))
    return conversation.messages


def input_conversation(instructions: str | None, items: Sequence[InputItem]) -> list[Json]:
    """Converts items of /v1/responses to a conversation. Raises InvalidRequest."""
    conversation = Conversation()
    if instructions:
        conversation.add("system", instructions)
    for index, item in enumerate(items):
        path = f"input[{index}]"
        _require_own_fields(path, item)
        if item.type == "message":
            conversation.add(item.role or "", item.content or "")
        elif item.type == "function_call":
            conversation.add_call(item.call_id or "", item.name or "", _parsed(f"{path}.arguments", item.arguments or ""))
        else:
            conversation.add_result(f"{path}.call_id", item.call_id or "", item.output or "")
    return conversation.messages


def _require_own_fields(path: str, item: InputItem) -> None:
    own = FIELDS[item.type]
    for name in dict.fromkeys(field for fields in FIELDS.values() for field in fields):
        given = getattr(item, name) is not None
        if name in own and not given:
            raise _missing(f"{path}.{name}", f'given with type "{item.type}"')
        if given and name not in own:
            raise InvalidRequest(f'{path}.{name} cannot go with type "{item.type}".', param=f"{path}.{name}")


def _parsed(path: str, arguments: str) -> Json:
    """Parses a call's arguments. An empty string means an empty object."""
    try:
        parsed = require_finite(from_json(arguments or "{}"))
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise InvalidRequest(f"{path} is {echo(arguments)}; it must be a JSON object, as a string.", param=path)
    return parsed


def _missing(path: str, allowed: str) -> InvalidRequest:
    return InvalidRequest(f"{path} is missing; it must be {allowed}.", param=path)


def _only(path: str, needed: str) -> InvalidRequest:
    return InvalidRequest(f"{path} is only allowed with {needed}.", param=path)
