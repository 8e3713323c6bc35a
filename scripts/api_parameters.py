"""The tables of parameters: everything but the last column is read from gateway/schemas."""

import json
import re
from typing import Any

from pydantic import BaseModel

from gateway.api.schemas import (
    ChangesNothing,
    ChatBody,
    CompletionBody,
    CountTokensBody,
    DetokenizeBody,
    GenerateBody,
    MessagesBody,
    ResponsesBody,
    TokenizeBody,
    fields_of,
)
from gateway.api.schemas.base import nested_schema
from gateway.api.schemas.formats import ResponseFormat

BODIES: dict[str, type[BaseModel]] = {
    "/generate": GenerateBody,
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/responses": ResponsesBody,
    "/v1/messages": MessagesBody,
    "/v1/messages/count_tokens": CountTokensBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}
FORMAT = "response_format"
NO_CHANGE = "accepted, changes nothing"
STRICT = "refuse a schema that cannot be enforced"
# What each parameter does. A key with a route takes precedence over the bare name, for parameters whose meaning differs there.
MEANINGS = {
    "/detokenize tokens": "the token ids to decode",
    "/tokenize messages": "a conversation, rendered with the model's chat template",
    "/tokenize prompt": "the text to tokenize",
    "/v1/chat/completions logprobs": "return the log-probability of every token",
    "/v1/completions logprobs": "return the log-probability of every token, and of this many most probable alternatives",
    "/v1/completions prompt": "the prompt or prompts to continue",
    "/v1/responses top_logprobs": "how many of the most probable tokens to return at each position; turns on log-probabilities",
    "/v1/messages max_tokens": "maximum number of new tokens; the answer also ends at the end of the context",
    "/v1/messages metadata": NO_CHANGE,
    **{
        f"/v1/messages{route} {name}": meaning
        for route in ("", "/count_tokens")
        for name, meaning in {
            "type": "the kind of block, tool or choice",
            "id": "id of the call",
            "name": "name of the tool",
            "text": "the message's content",
            "content": "the message's content, or a tool's result",
            "description": "what the tool does, for the model",
            "strict": "refuse the request if the schema cannot be enforced",
            "tools": "tools the model may call",
            "tool_choice": "whether the model calls tools: its own choice, at least one, a named one, or none",
        }.items()
    },
    "input_schema": "JSON schema of the tool's input",
    "tool_use_id": "id of the call this result belongs to",
    "is_error": NO_CHANGE,
    "citations": NO_CHANGE,
    "disable_parallel_tool_use": "at most one call per answer",
    "/v1/messages messages[].role": "who wrote the message",
    "/v1/messages service_tier": NO_CHANGE,
    "/v1/messages thinking.type": NO_CHANGE,
    "/v1/messages/count_tokens messages[].role": "who wrote the message",
    "/v1/messages/count_tokens thinking.type": NO_CHANGE,
    "/v1/responses text": "the format of the answer, as `text.format`",
    "add_generation_prompt": "end with the start of the assistant's turn",
    "add_special_tokens": "add the special tokens the tokenizer puts around a text, such as BOS",
    "annotations": NO_CHANGE,
    "cache_control": NO_CHANGE,
    "best_of": "generate this many answers and return the best `n`, by mean token log-probability",
    "content": "the message's content",
    "continuous_usage_stats": "include the running `usage` in every event",
    "description": NO_CHANGE,
    "echo": "start the answer with the prompt; with `logprobs`, also return those of the prompt's tokens",
    "format": "the format of the answer",
    "frequency_penalty": "subtracted from a token's logit for each time it has been generated",
    "grammar": "the grammar the answer must follow, in llguidance's Lark syntax",
    "id": NO_CHANGE,
    "ignore_eos": "do not stop at end tokens",
    "include": "`message.output_text.logprobs`: return the log-probability of every token; "
    "`reasoning.encrypted_content` changes nothing",
    "include_obfuscation": NO_CHANGE,
    "include_usage": "send one more event with `usage` at the end",
    "input": "the question, or the conversation so far",
    "instructions": "a system message placed before `input`",
    "json_schema": "the schema and its name",
    "logit_bias": "added to the logits of these tokens first; −100 rules a token out",
    "max_completion_tokens": "the newer name of `max_tokens`; takes precedence if both are given",
    "max_length": "maximum number of new tokens",
    "max_output_tokens": "maximum number of new tokens; if omitted, the rest of the context",
    "max_tokens": "maximum number of new tokens; if omitted, the rest of the context",
    "/v1/completions max_tokens": "maximum number of new tokens; same default as OpenAI and vLLM",
    "messages": "the conversation so far",
    "min_p": "drop tokens whose probability is below this fraction of the most probable one's",
    "min_tokens": "ignore end tokens and stop strings until this many tokens have been generated",
    "modalities": NO_CHANGE,
    "model": "the model to use; `latest_checkpoint.pt` always means the default model",
    "n": "how many answers to generate for each prompt",
    "name": NO_CHANGE,
    "allowed_tools": "restrict the model to these tools",
    "arguments": "the arguments of the call, as a JSON string; an empty string means an empty object",
    "call_id": "id of a call; an output names the call it belongs to",
    "function": "the function the model may call",
    "mode": "whether the model must call one of them",
    "output": "the result of a call",
    "parallel_tool_calls": "whether an answer may contain more than one call",
    "parameters": "JSON schema of its arguments; if omitted, it takes none",
    "presence_penalty": "subtracted once from the logit of every token generated so far",
    "prompt": "the text to continue",
    "prompt_logprobs": "log-probabilities of the prompt's tokens, with this many alternatives each, in vLLM's format",
    "regex": "the regular expression the whole answer must match, in Rust's syntax",
    "reasoning_content": NO_CHANGE,
    "repetition_penalty": "the logit of a generated token is divided by it if positive, otherwise multiplied",
    "response_format": "the format of the answer",
    "chat_template_kwargs": "variables of the model's chat template, as with transformers and vLLM",
    "return_token_ids": "return the token ids of the prompt and the answer, in vLLM's format",
    "return_token_strs": "also return the text of each token",
    "role": "who wrote the message; `developer` is the same as `system`",
    "schema": "the JSON schema the answer must follow",
    "seed": "the same seed gives the same text; null and −1 pick a random seed",
    "status": NO_CHANGE,
    "stop_sequences": "stop before the first of these strings; it is not part of the answer",
    "stop": "stop before the first of these strings; it is not part of the answer",
    "stream": "stream the answer as it is generated",
    "stream_options": "what a stream reports besides the text",
    "strict": "accepted, changes nothing: an answer always follows its schema",
    "system": "the system message",
    "temperature": "logits are divided by it before sampling; 0 always takes the most probable token",
    "text": "the format of the answer",
    "thinking": NO_CHANGE,
    "tool_call_id": "for a tool's result: id of the call it belongs to",
    "tool_calls": "the calls an earlier answer made",
    "tool_choice": "whether the model may, must or must not call tools, and which",
    "tools": "the tools the model may call: [tools](#tools)",
    "top_k": "sample from the k most probable tokens; 0: from all",
    "top_logprobs": "how many of the most probable tokens to return at each position",
    "top_p": "sample from the smallest set of most probable tokens whose total probability reaches this",
    "truncation": NO_CHANGE,
    "user_id": NO_CHANGE,
    "type": "the kind of format or choice",
    "input[].name": "name of the function called",
    "input[].type": "the kind of item",
    "messages[].tool_calls[].function": "the function called",
    "messages[].tool_calls[].function.name": "its name",
    "messages[].tool_calls[].id": "id that the result repeats in `tool_call_id`",
    "messages[].tool_calls[].type": NO_CHANGE,
    "tool_choice.allowed_tools.tools": "the tools that may be called",
    "tool_choice.allowed_tools.tools[].function": "one of these tools",
    "tool_choice.allowed_tools.tools[].function.name": "its name",
    "tool_choice.allowed_tools.tools[].type": NO_CHANGE,
    "tool_choice.function": "the function that must be called",
    "tool_choice.function.name": "its name",
    "tool_choice.name": "the function that must be called",
    "tool_choice.tools": 'the tools that may be called, with type "allowed_tools"',
    "tool_choice.tools[].name": "its name",
    "tool_choice.tools[].type": NO_CHANGE,
    "tools[].description": "what it does, for the model to read",
    "tools[].function.description": "what it does, for the model to read",
    "tools[].function.name": "its name",
    "tools[].function.strict": STRICT,
    "tools[].name": "its name",
    "tools[].strict": STRICT,
    "tools[].type": "the kind of tool",
}


def parameter_table(path: str) -> str:
    rows = ["| parameter | type | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join(rows + _rows(path, BODIES[path], ""))


def format_table() -> str:
    """``response_format``, shared by three routes and described once."""
    rows = ["| parameter | type | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join(rows + _rows("/generate", ResponseFormat, f"{FORMAT}."))


def unchanging_table() -> str:
    rows = ["| parameter | type | allowed |", "| --- | --- | --- |"]
    properties = _properties(ChangesNothing)
    for name, field in fields_of(ChangesNothing).items():
        rows.append(f"| `{name}` | {_type(*properties[name])} | {_cell(field.description or '')} |")
    return "\n".join(rows)


def _rows(path: str, schema: type[BaseModel], prefix: str) -> list[str]:
    """One row per field, each followed by the fields of its object; `format_table` covers those of the format."""
    rows, properties = [], _properties(schema)
    for name, field in fields_of(schema).items():
        if not prefix and name in ChangesNothing.model_fields:
            continue
        kind = _type(*properties[name])
        default = "required" if field.is_required() else _default(field.default)
        cells = [f"`{prefix}{name}`", kind, default, _cell(field.description or ""), _meaning(path, prefix, name)]
        rows.append(f"| {' | '.join(cells)} |")
        if name != FORMAT and (nested := nested_schema(field.annotation)) is not None:
            rows += _rows(path, nested, f"{prefix}{name}{'[]' if 'list' in kind else ''}.")
    return rows


def _meaning(path: str, prefix: str, name: str) -> str:
    keys = (f"{path} {prefix}{name}", f"{prefix}{name}", f"{path} {name}", name)
    found = [MEANINGS[key] for key in keys if key in MEANINGS]
    if not found:
        raise KeyError(f"scripts/api_parameters.py does not say what {prefix}{name} of {path} is for")
    return _cell(found[0])


def _properties(schema: type[BaseModel]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Each field's JSON schema, with the definitions it refers to."""
    document = schema.model_json_schema(by_alias=True)
    return {name: (field, document.get("$defs", {})) for name, field in document["properties"].items()}


def _type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The JSON type in words, such as "string or list"."""
    names = {"array": "list", "null": ""}
    if "$ref" in field:
        return _type(definitions[field["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in field:
        kinds = [_type(choice, definitions) for choice in field["anyOf"]]
        return " or ".join(kind for kind in dict.fromkeys(kinds) if kind)
    if "type" in field:
        return names.get(field["type"], str(field["type"]))
    return "string" if isinstance(field.get("const", (field.get("enum") or [""])[0]), str) else "any"


def _default(value: object) -> str:
    if value is None or value == {} or value == [] or value == "" or isinstance(value, BaseModel):
        return "none"
    return f"`{json.dumps(value)}`" if isinstance(value, str | list | dict) else json.dumps(value)


def _cell(text: str) -> str:
    """A Markdown cell with JSON set as code and readable numbers."""
    text = re.sub(r'(\{[^`]*\}|\["[^`]*?"\]|"[^"` ]+": true)', r"`\1`", text)
    text = re.sub(r'(?<!")\b\d{5,}\b', lambda number: f"{int(number[0]):,}", text)
    text = text.replace("-9,223,372,036,854,775,808", "−2⁶³").replace("9,223,372,036,854,775,807", "2⁶³ − 1")
    return re.sub(r"(?<![`\w])-(?=\d)", "−", text).replace("|", "\\|")
