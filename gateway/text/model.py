"""A model as Triton describes it: everything the gateway needs to know about a checkpoint."""

import json
from dataclasses import dataclass

from gateway.text.grammar import Grammar, GrammarCompiler, Matcher
from gateway.text.tokenizer import Tokenizer
from gateway.text.tools import ToolSupport


@dataclass(frozen=True)
class Model:
    name: str  # in Triton's repository
    version: str  # of its directory there
    checkpoint: str  # the checkpoint's file name
    created: int  # Unix time of the checkpoint file
    context_length: int  # positions of a sequence, prompt and output together
    candidates: int  # k: candidates per position on the wire
    vocabulary_size: int
    slots: int  # sequences that Triton caches at once
    joined_tokens: int  # most tokens of a row that Triton computes together with other rows
    most_run_ahead: int  # most tokens that Triton may draw itself in a step
    end_tokens: frozenset[int]
    tokenizer: Tokenizer
    grammars: GrammarCompiler
    tools: ToolSupport
    fingerprint: str  # hexadecimal SHA-256 of what the model was exported from
    parameters: dict[str, str]  # all of the model card, plus the actual slots and provider

    @classmethod
    def from_description(cls, name: str, version: str, description: bytes) -> "Model":
        """Reads the backend's ``description`` (docs/wire-contract.md)."""
        document = json.loads(description)
        parameters: dict[str, str] = document["parameters"]
        tokenizer = Tokenizer(document["tokenizer"], document["chat_template"])
        vocabulary_size = int(parameters["vocabulary_size"])
        end_tokens = frozenset(int(token) for token in parameters["end_tokens"].split(",") if token)
        grammars = GrammarCompiler(tokenizer, vocabulary_size, end_tokens)
        grammars.prepare()
        return cls(
            name=name,
            version=version,
            checkpoint=parameters["checkpoint"],
            created=int(parameters["created"]),
            context_length=int(parameters["context_length"]),
            candidates=int(parameters["candidates"]),
            vocabulary_size=vocabulary_size,
            slots=int(parameters["slots"]),
            joined_tokens=int(parameters["joined_tokens"]),
            most_run_ahead=int(parameters["run_ahead"]),
            end_tokens=end_tokens,
            tokenizer=tokenizer,
            grammars=grammars,
            tools=ToolSupport(tokenizer, grammars),
            fingerprint=parameters["fingerprint"],
            parameters=parameters,
        )

    def start(self) -> None:
        """Starts the process that reads prompts, in the background."""
        self.tokenizer.prompts.start()

    def close(self) -> None:
        """Ends the processes that read prompts and grammars. Without it they last until this object is garbage-collected."""
        self.tokenizer.prompts.close()
        self.grammars.close()

    def compile_grammar(self, grammar: Grammar) -> Matcher:
        """See `GrammarCompiler.compile`."""
        return self.grammars.compile(grammar)

    def known_grammar(self, grammar: Grammar) -> Matcher | None:
        """See `GrammarCompiler.known`."""
        return self.grammars.known(grammar)
