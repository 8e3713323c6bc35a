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
STRICT = "refuse a schema that arguments cannot be held to"
# What a parameter is for. A name with its route, where it means something else there, goes before the name alone.
MEANINGS = {
    "/detokenize tokens": "the tokens whose text is asked for",
    "/tokenize messages": "a conversation, as the model's chat template writes it",
    "/tokenize prompt": "the text whose tokens are asked for",
    "/v1/chat/completions logprobs": "tell the log-probability of every token",
    "/v1/completions logprobs": "tell every token's log-probability, and this many of the most probable ones",
    "/v1/completions prompt": "the text or texts to continue",
    "/v1/responses top_logprobs": "this many of the most probable tokens at every position; asks for log-probabilities too",
    "/v1/messages max_tokens": "new tokens at most; the end of the context ends a text too",
    "/v1/messages metadata": NO_CHANGE,
    **{
        f"/v1/messages{route} {name}": meaning
        for route in ("", "/count_tokens")
        for name, meaning in {
            "type": "which kind of block, tool or choice",
            "id": "of the call",
            "name": "of the tool",
            "text": "what was said",
            "content": "what was said, or a tool's result",
            "description": "what the tool does, for the model",
            "strict": "refuse the request where the input could not be held to the schema",
            "tools": "tools that the model may call",
            "tool_choice": "whether tools are called: by the model's own choice, any, one by its name, or none",
        }.items()
    },
    "input_schema": "what the tool's input must match",
    "tool_use_id": "the id of the call that this is the result of",
    "is_error": NO_CHANGE,
    "citations": NO_CHANGE,
    "disable_parallel_tool_use": "one call an answer",
    "/v1/messages messages[].role": "who said it",
    "/v1/messages service_tier": NO_CHANGE,
    "/v1/messages thinking.type": NO_CHANGE,
    "/v1/messages/count_tokens messages[].role": "who said it",
    "/v1/messages/count_tokens thinking.type": NO_CHANGE,
    "/v1/responses text": "the form of the answer, as `text.format`",
    "add_generation_prompt": "end with the beginning of the assistant's answer",
    "add_special_tokens": "the tokens that the tokenizer itself puts around a text",
    "annotations": NO_CHANGE,
    "cache_control": NO_CHANGE,
    "best_of": "write this many, answer with the `n` most probable (by the mean log-probability of their tokens)",
    "content": "what was said",
    "continuous_usage_stats": "`usage` in every event, as it is by then",
    "description": NO_CHANGE,
    "echo": "begin the answer with the prompt; with `logprobs` those of the prompt's tokens are returned too",
    "format": "the form of the answer",
    "frequency_penalty": "subtracted from a token's logit for each time it was generated so far",
    "grammar": "what the answer must follow, in llguidance's Lark",
    "id": NO_CHANGE,
    "ignore_eos": "end tokens do not end the text",
    "include": "`message.output_text.logprobs`: return the log-probability of every token; "
    "`reasoning.encrypted_content` changes nothing",
    "include_obfuscation": NO_CHANGE,
    "include_usage": "one more event at the end, with `usage`",
    "input": "what is asked, or the conversation so far",
    "instructions": "a system message before `input`",
    "json_schema": "the schema and its name",
    "logit_bias": "added to these tokens' logits before anything else; −100 rules one out",
    "max_completion_tokens": "the newer name of `max_tokens`; wins where both are given",
    "max_length": "new tokens at most",
    "max_output_tokens": "new tokens at most; without it the rest of the context",
    "max_tokens": "new tokens at most; without it the rest of the context",
    "/v1/completions max_tokens": "new tokens at most; the default is OpenAI's and vLLM's",
    "messages": "the conversation so far",
    "min_p": "drop tokens less than this fraction as probable as the most probable one",
    "min_tokens": "neither end tokens nor stop strings end the text before it has this many tokens",
    "modalities": NO_CHANGE,
    "model": "which model; `latest_checkpoint.pt` always means the default one",
    "n": "how many answers to each prompt",
    "name": NO_CHANGE,
    "allowed_tools": "only these of the tools",
    "arguments": "those of the call, JSON in a string; an empty string is an empty object",
    "call_id": "of a call; an output names the call it belongs to",
    "function": "what the model may call",
    "mode": "whether one of them must be called",
    "output": "what a call gave",
    "parallel_tool_calls": "whether an answer may have several calls",
    "parameters": "of its arguments; without it there are none",
    "presence_penalty": "subtracted from a token's logit once it was generated",
    "prompt": "the text to continue",
    "prompt_logprobs": "log-probabilities of the prompt's tokens, with this many of the most probable ones, in vLLM's form",
    "regex": "what the whole answer must match, in Rust's syntax",
    "reasoning_content": NO_CHANGE,
    "repetition_penalty": "the logit of a token that was generated is divided by it where positive, else multiplied",
    "response_format": "the form of the answer",
    "return_token_ids": "the ids of the prompt's and the answer's tokens, in vLLM's form",
    "return_token_strs": "the text of each token too",
    "role": "who said it; `developer` is the same as `system`",
    "schema": "the JSON schema that the answer follows",
    "seed": "the same seed gives the same text; null and −1 draw a random one",
    "status": NO_CHANGE,
    "stop_sequences": "end the text before the first of these, which are not part of it",
    "stop": "end the text before the first of these, which are not part of it",
    "stream": "send the answer as it is written",
    "stream_options": "what a stream tells besides the text",
    "strict": "accepted, changes nothing: an answer always follows its schema",
    "system": "the system message",
    "temperature": "logits are divided by it before sampling; 0 always takes the most probable token",
    "text": "the form of the answer",
    "thinking": NO_CHANGE,
    "tool_call_id": "of a tool's result: the call it belongs to",
    "tool_calls": "what an earlier answer called",
    "tool_choice": "whether the model may call tools, must, or must not, and which",
    "tools": "what the model may call: [tools](#tools)",
    "top_k": "sample among the k most probable tokens; 0: among all",
    "top_logprobs": "with each token, this many of the most probable ones",
    "top_p": "sample among the most probable tokens that together have at least this probability",
    "truncation": NO_CHANGE,
    "user_id": NO_CHANGE,
    "type": "which form",
    "input[].name": "the function that was called",
    "input[].type": "what it is",
    "messages[].tool_calls[].function": "what was called",
    "messages[].tool_calls[].function.name": "its name",
    "messages[].tool_calls[].id": "what the result names in `tool_call_id`",
    "messages[].tool_calls[].type": NO_CHANGE,
    "tool_choice.allowed_tools.tools": "those that may be called",
    "tool_choice.allowed_tools.tools[].function": "one of them",
    "tool_choice.allowed_tools.tools[].function.name": "its name",
    "tool_choice.allowed_tools.tools[].type": NO_CHANGE,
    "tool_choice.function": "the one that must be called",
    "tool_choice.function.name": "its name",
    "tool_choice.name": "the function that must be called",
    "tool_choice.tools": 'those that may be called, with type "allowed_tools"',
    "tool_choice.tools[].name": "the name of one",
    "tool_choice.tools[].type": NO_CHANGE,
    "tools[].description": "what it is for, as the model reads it",
    "tools[].function.description": "what it is for, as the model reads it",
    "tools[].function.name": "its name",
    "tools[].function.strict": STRICT,
    "tools[].name": "its name",
    "tools[].strict": STRICT,
    "tools[].type": "what kind of tool",
}


def parameter_table(path: str) -> str:
    rows = ["| parameter | type | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join(rows + _rows(path, BODIES[path], ""))


def format_table() -> str:
    """``response_format``, which three routes have: described once."""
    rows = ["| parameter | type | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join(rows + _rows("/generate", ResponseFormat, f"{FORMAT}."))


def unchanging_table() -> str:
    rows = ["| parameter | type | allowed |", "| --- | --- | --- |"]
    properties = _properties(ChangesNothing)
    for name, field in fields_of(ChangesNothing).items():
        rows.append(f"| `{name}` | {_type(*properties[name])} | {_cell(field.description or '')} |")
    return "\n".join(rows)


def _rows(path: str, schema: type[BaseModel], prefix: str) -> list[str]:
    """A row for every field, those of an object within it right after it (but `format_table` has those of the format)."""
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
    """Each field's JSON schema, with the definitions that it refers to."""
    document = schema.model_json_schema(by_alias=True)
    return {name: (field, document.get("$defs", {})) for name, field in document["properties"].items()}


def _type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Of JSON, in words: "string or list"."""
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
    """A Markdown cell: JSON within it as code, numbers readable."""
    text = re.sub(r'(\{[^`]*\}|\["[^`]*?"\]|"[^"` ]+": true)', r"`\1`", text)
    text = re.sub(r'(?<!")\b\d{5,}\b', lambda number: f"{int(number[0]):,}", text)
    text = text.replace("-9,223,372,036,854,775,808", "−2⁶³").replace("9,223,372,036,854,775,807", "2⁶³ − 1")
    return re.sub(r"(?<![`\w])-(?=\d)", "−", text).replace("|", "\\|")
