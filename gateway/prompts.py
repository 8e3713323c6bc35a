"""From what a client asks to the tokens of a prompt. Slow for long texts: a megabyte takes a second."""

from collections.abc import Sequence

from gateway.body import echo
from gateway.errors import InvalidRequest
from gateway.model import Model
from gateway.schemas.messages import Message


def conversation_tokens(
    model: Model, messages: Sequence[Message], *, param: str = "messages", add_generation_prompt: bool = True
) -> list[int]:
    """The model's chat template renders the messages; for a model without one, the prompt is their contents, a line each.

    Raises InvalidRequest in the name of ``param``.
    """
    if model.tokenizer.has_chat_template:
        rendered = [message.for_template() for message in messages]
        return model.tokenizer.apply_chat_template(rendered, add_generation_prompt=add_generation_prompt)
    text = "\n".join(message.content for message in messages)
    if not text:
        raise InvalidRequest(f"{param} has no text; a model without a chat template needs some.", param=param)
    return model.tokenizer.encode(text, param=param)


def prompt_tokens(model: Model, prompt: str | list[int]) -> list[int]:
    """Raises InvalidRequest where a token is not in the model's vocabulary."""
    if isinstance(prompt, str):
        return model.tokenizer.encode(prompt)
    require_tokens(model, prompt, "prompt")
    return prompt


def prompt_text(model: Model, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt, skip_special_tokens=False)


def require_tokens(model: Model, tokens: list[int], param: str) -> None:
    """Raises InvalidRequest where one is not in the model's vocabulary."""
    wrong = next((token for token in tokens if not 0 <= token < model.vocabulary_size), None)
    if wrong is not None:
        message = f"{param} names token {echo(wrong)}; this model's tokens are 0 to {model.vocabulary_size - 1}."
        raise InvalidRequest(message, param=param)
