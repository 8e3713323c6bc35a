"""Turns a client's input into prompt tokens, in resource-limited processes. Blocking: a megabyte takes a second."""

from typing import Any

from gateway.errors import InvalidRequest, echo
from gateway.text.model import Model
from gateway.text.tool_calls import ToolUse
from gateway.text.tool_prompt import plain_conversation


def conversation_tokens(
    model: Model,
    messages: list[dict[str, Any]],
    *,
    tools: ToolUse | None = None,
    variables: dict[str, Any] | None = None,
    param: str = "messages",
    add_generation_prompt: bool = True,
) -> list[int]:
    """Renders ``messages``, in the form that templates read (api/schemas/history.py), with the model's chat template and the
    request's own ``variables`` for it. Without a template, the prompt is their contents, one per line.

    Raises InvalidRequest for ``param``.
    """
    offered = [tool.for_template() for tool in tools.tools] if tools else []
    if model.tokenizer.has_chat_template:
        return model.tokenizer.apply_chat_template(
            messages, tools=offered or None, variables=variables, param=param, add_generation_prompt=add_generation_prompt
        )
    if variables:
        name = "chat_template_kwargs"
        raise InvalidRequest(f"{name}: this model has no chat template that could use them; leave them out.", param=name)
    text = "\n".join(message["content"] for message in plain_conversation(messages, offered))
    if not text:
        raise InvalidRequest(f"{param} has no text; a model without a chat template needs some.", param=param)
    return text_tokens(model, text, param=param)


def continued_tokens(model: Model, messages: list[dict[str, Any]], *, tools: ToolUse | None = None) -> list[int]:
    """Like `conversation_tokens`, but if the last message is the assistant's, the output continues it."""
    *before, last = messages
    if last["role"] != "assistant" or "tool_calls" in last or not model.tokenizer.has_chat_template:
        return conversation_tokens(model, messages, tools=tools)
    begun = text_tokens(model, last["content"], param="messages", add_special_tokens=False)
    return conversation_tokens(model, before, tools=tools) + begun


def prompt_tokens(model: Model, prompt: str | list[int]) -> list[int]:
    """Returns the tokens of a prompt. Raises InvalidRequest if a token is not in the model's vocabulary."""
    if isinstance(prompt, str):
        return text_tokens(model, prompt)
    if len(prompt) <= model.context_length:  # the engine rejects longer prompts anyway
        require_tokens(model, prompt, "prompt")
    return prompt


def text_tokens(model: Model, text: str, *, param: str = "prompt", add_special_tokens: bool = True) -> list[int]:
    """Tokenizes ``text``, recognising special tokens by their text. Raises InvalidRequest."""
    return model.tokenizer.prompts.encode(text, param=param, add_special_tokens=add_special_tokens)


def prompt_text(model: Model, prompt: str | list[int]) -> str:
    """Returns the prompt as `echo` shows it. Raises InvalidRequest."""
    return prompt if isinstance(prompt, str) else tokens_text(model, prompt, param="prompt")


def tokens_text(model: Model, tokens: list[int], *, param: str) -> str:
    """Decodes tokens, including special tokens' names. Raises InvalidRequest if a token is not in the model's vocabulary."""
    require_tokens(model, tokens, param)
    return model.tokenizer.prompts.decode(tokens, param=param)


def require_tokens(model: Model, tokens: list[int], param: str) -> None:
    """Raises InvalidRequest if a token is not in the model's vocabulary."""
    if not tokens or (min(tokens) >= 0 and max(tokens) < model.vocabulary_size):  # fast path: there may be half a million
        return
    wrong = next((token for token in tokens if not 0 <= token < model.vocabulary_size), None)
    if wrong is not None:
        message = f"{param} names token {echo(wrong)}; this model's tokens are 0 to {model.vocabulary_size - 1}."
        raise InvalidRequest(message, param=param)
