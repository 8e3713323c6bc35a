"""What the clients ask: a fixed set of requests whose answers are always the same, since each is greedy or has a seed."""

from dataclasses import dataclass, field
from typing import Any, Literal

Route = Literal["generate", "chat", "completions"]
ROUTES: tuple[Route, ...] = ("generate", "chat", "completions")
PROMPTS = ("The king", "To be, or not", "Once upon a time", "你好，世界", "In the beginning", "All happy families", "def f():")
LONG_PROMPT = "It was a bright cold day in April, and the clocks were striking thirteen. " * 36  # several chunks of prefill
SAMPLINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0, "top_k": 40, "top_p": 1.0, "seed": 7},
    {"temperature": 1.3, "top_k": 0, "top_p": 0.95, "seed": 11, "repetition_penalty": 1.2, "frequency_penalty": 0.4},
)
LENGTHS = (10, 30, 60, 120)  # tokens


@dataclass(frozen=True)
class Question:
    name: str
    route: Route
    prompt: str
    tokens: int  # at most
    options: dict[str, Any] = field(default_factory=dict)  # as the routes name them

    @property
    def body(self) -> dict[str, Any]:
        """Of the request, without `stream`."""
        if self.route == "generate":
            return {"prompt": self.prompt, "max_length": self.tokens, **self.options}
        asked = {"model": "latest_checkpoint.pt", "max_tokens": self.tokens, **self.options}
        if self.route == "chat":
            return asked | {"messages": [{"role": "user", "content": self.prompt}]}
        return asked | {"prompt": self.prompt}


def questions() -> list[Question]:
    """Every route with every sampling, several prompts and lengths; long prompts, several answers, and given forms."""
    plain = [
        Question(f"{route} {place} {which}", route, prompt, LENGTHS[(place + which) % len(LENGTHS)], sampling)
        for route in ROUTES
        for place, prompt in enumerate(PROMPTS)
        for which, sampling in enumerate(SAMPLINGS)
        if (place + which) % 2 == ROUTES.index(route) % 2
    ]
    yes_no = {"response_format": {"type": "regex", "regex": "(yes|no)( and (yes|no)){20}"}}
    special = [
        Question("long prompt, greedy", "completions", LONG_PROMPT, 60, SAMPLINGS[0]),
        Question("long prompt, seeded", "generate", LONG_PROMPT, 60, SAMPLINGS[1]),
        Question("three answers", "chat", "Name a city", 60, SAMPLINGS[1] | {"n": 3}),
        Question("two answers with a stop string", "completions", "Name a city", 120, SAMPLINGS[2] | {"n": 2, "stop": ["e"]}),
        Question("given form, greedy", "generate", "Yes or no?", 100, SAMPLINGS[0] | yes_no),
        Question("given form, seeded", "chat", "Yes or no?", 100, SAMPLINGS[1] | yes_no),
    ]
    return plain + special
