"""Fields shared by all generating routes, with the same limits everywhere: token sampling and stop conditions."""

# ruff: noqa: RUF012  pydantic copies a mutable default for every body

from abc import abstractmethod
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gateway.api.schemas.base import (
    LARGEST_MAX_TOKENS,
    LARGEST_TOP_K,
    LONGEST_LABEL,
    MOST_BIASES,
    Body,
    Choices,
    Flag,
    Label,
    OpenAIBody,
    OptionalModelName,
    StopStrings,
    integer,
    number,
)
from gateway.api.schemas.formats import ResponseFormat
from gateway.engine.generation import GenerationRequest, SamplingParameters
from gateway.errors import InvalidRequest
from gateway.text.grammar import Grammar, Matcher
from gateway.text.tool_calls import ToolUse

MOST_METADATA = 16  # as in OpenAI's API

RANDOM_SEED = -1  # as in other servers; every other number is a fixed seed, including negative ones
Penalty = Annotated[float, number(-2.0, 2.0)]
Fraction = Annotated[float, number(0.0, 1.0)]
TokenId = Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,8})$")]
LogitBias = Annotated[
    dict[TokenId, Annotated[float, Field(ge=-100, le=100)]],
    Field(
        fail_fast=True,
        max_length=MOST_BIASES,
        description=f'an object of up to {MOST_BIASES} token ids, each with a number from -100 to 100: {{"50256": -100}}',
        json_schema_extra={"additionalProperties": False},
    ),
]


class ChangesNothing(Body):
    """What OpenAI's clients send though it changes nothing here: accepted where nothing is asked that would be left undone."""

    user: Label = ""
    safety_identifier: Label = ""
    prompt_cache_key: Label = ""
    prompt_cache_retention: Annotated[Literal["in_memory", "in-memory", "24h"], Field(description='"in_memory" or "24h"')] = (
        "in_memory"
    )
    service_tier: Annotated[Literal["auto", "default"], Field(description='"auto" or "default"')] = "auto"
    store: Flag = False
    metadata: Annotated[
        dict[Label, Label],
        Field(
            fail_fast=True,
            max_length=MOST_METADATA,
            description=f"an object of up to {MOST_METADATA} strings, each of up to {LONGEST_LABEL} characters",
        ),
    ] = {}


class SamplingBody(Body):
    """A subclass defines where its prompt comes from, how many tokens an output may have, and what is returned with them."""

    prompt_field: ClassVar[str] = "prompt"
    max_tokens_field: ClassVar[str] = "max_tokens"
    format_field: ClassVar[str] = "response_format"
    logprobs_field: ClassVar[str] = "logprobs"
    only_with: ClassVar[dict[str, str]] = {}  # a field, and the one it requires to be true
    never_with: ClassVar[dict[str, str]] = {}  # a field, and the one it requires not to be true

    model: OptionalModelName = None
    temperature: Annotated[float, number(0.0, 2.0, " (0: always the most probable token)")] = 0.7
    top_k: Annotated[int, integer(0, LARGEST_TOP_K, " (0: all tokens)")] = 50
    top_p: Fraction = 0.9
    min_p: Fraction = 0.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, number(0.1, 10.0, " (1: none)")] = 1.0
    logit_bias: LogitBias = {}
    seed: Annotated[int | None, integer(-(2**63), 2**63 - 1, " (-1: a random one)")] = None
    stop: StopStrings = []
    min_tokens: Annotated[int, integer(0, LARGEST_MAX_TOKENS)] = 0
    ignore_eos: Flag = False
    stream: Flag = False

    @property
    @abstractmethod
    def answer_tokens(self) -> int | None:
        """The maximum number of tokens per output; None: the rest of the context."""

    @property
    def copies(self) -> int:
        """The number of outputs per prompt."""
        return 1

    @property
    def alternatives(self) -> int | None:
        """The number of alternatives returned with each token; None: no log-probabilities."""
        return None

    @abstractmethod
    def grammar(self) -> Grammar | None:
        """The grammar that the output must match; None: no constraint."""

    @property
    def tool_use(self) -> ToolUse | None:
        """The tools that the model may call; None: text only."""
        return None

    def generation(self, prompt_tokens: list[int], grammar: Matcher | None = None) -> GenerationRequest:
        return GenerationRequest(
            prompt_tokens,
            LARGEST_MAX_TOKENS if self.answer_tokens is None else self.answer_tokens,
            self._sampling(),
            None if self.seed == RANDOM_SEED else self.seed,
            tuple(self.stop),
            prompt_field=self.prompt_field,
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
            logprobs=self.alternatives,
            grammar=grammar,
        )

    def _sampling(self) -> SamplingParameters:
        return SamplingParameters(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias={int(token): bias for token, bias in self.logit_bias.items()},
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        dependent = {name: _null_or(name, _is_true(needed)) for name, needed in cls.only_with.items()}
        dependent |= {name: _null_or(name, {"not": _is_true(other)}) for name, other in cls.never_with.items()}
        return schema | ({"dependentSchemas": dependent} if dependent else {})

    @model_validator(mode="after")
    def _fields_have_what_they_need(self) -> Self:
        for name, needed in self.only_with.items():
            if name in self.model_fields_set and not getattr(self, needed):
                raise InvalidRequest(f'{name} is only allowed with "{needed}": true.', param=name)
        for name, other in self.never_with.items():
            if getattr(self, name) is not None and getattr(self, other):
                raise InvalidRequest(f'{name} is not allowed with "{other}": true.', param=name)
        return self

    @model_validator(mode="after")
    def _min_tokens_fit(self) -> Self:
        if self.answer_tokens is not None and self.min_tokens > self.answer_tokens:
            message = f"min_tokens is {self.min_tokens}; it must be at most {self.max_tokens_field}, {self.answer_tokens}."
            raise InvalidRequest(message, param="min_tokens")
        return self


def _null_or(name: str, condition: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [{"properties": {name: {"type": "null"}}}, condition]}


def _is_true(name: str) -> JsonSchemaValue:
    return {"properties": {name: {"const": True}}, "required": [name]}


class Obfuscation(OpenAIBody):
    include_obfuscation: Flag = True  # no effect: the gateway never sends padding to hide chunk lengths


class StreamOptions(Obfuscation):
    include_usage: Flag = False  # usage in a final event
    continuous_usage_stats: Flag = False  # usage so far in every event


class Formatted(ChangesNothing, SamplingBody):
    """A route with OpenAI's ``response_format``."""

    response_format: Annotated[ResponseFormat, Field(description='an object, such as {"type": "json_object"}')] = (
        ResponseFormat()
    )

    def grammar(self) -> Grammar | None:
        return self.response_format.compiled_from("response_format")


class CompletionBase(OpenAIBody, Formatted):
    """Fields shared by OpenAI's two older routes."""

    only_with: ClassVar[dict[str, str]] = {"stream_options": "stream"}
    never_with: ClassVar[dict[str, str]] = {"prompt_logprobs": "stream"}

    n: Choices = 1
    stream_options: Annotated[
        StreamOptions, Field(description='an object, such as {"include_usage": true}, only with "stream": true')
    ] = StreamOptions()
    # As in vLLM.
    prompt_logprobs: Annotated[int | None, integer(0, 20, ', not with "stream": true')] = None
    return_token_ids: Flag = False

    @property
    def prompt_alternatives(self) -> int | None:
        """The number of alternatives returned with each prompt token; None: no log-probabilities."""
        return self.prompt_logprobs

    def generation(self, prompt_tokens: list[int], grammar: Matcher | None = None) -> GenerationRequest:
        request = super().generation(prompt_tokens, grammar)
        return replace(request, prompt_logprobs=self.prompt_alternatives, return_token_ids=self.return_token_ids)
