"""OpenAI's Python client, completions: prompts of every form, echo, log-probabilities, best_of; and the list of models."""

from typing import Any

import openai
import pytest
from openai.types import Completion

MODEL = "latest_checkpoint.pt"
PROMPT = "The quick brown fox"
HELLO, OTHERS = 23748, [995, 2068, 7586, 21831, 464, 262]  # " hello", " world", …
TOKENS = [464, 2068, 7586, 21831]  # PROMPT in GPT-2's vocabulary


def complete(sdk: openai.OpenAI, **parameters: Any) -> Completion:
    return sdk.completions.create(**{"model": MODEL, "prompt": PROMPT, "max_tokens": 6, "temperature": 0} | parameters)


def texts(answer: Completion) -> list[str]:
    return [choice.text for choice in answer.choices]


def test_an_answer_is_complete(sdk: openai.OpenAI) -> None:
    answer = complete(sdk)
    assert answer.id.startswith("cmpl-") and answer.object == "text_completion" and answer.system_fingerprint
    assert answer.usage and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 6)
    (choice,) = answer.choices
    assert choice.index == 0 and choice.logprobs is None and choice.finish_reason == "length" and choice.text


def test_token_ids_are_the_same_prompt(sdk: openai.OpenAI) -> None:
    assert texts(complete(sdk, prompt=TOKENS)) == texts(complete(sdk))


@pytest.mark.parametrize("prompts", [[PROMPT, "Once upon a time"], [TOKENS, [7454, 2402, 257, 640]]])
def test_several_prompts_are_answered_in_their_order(sdk: openai.OpenAI, prompts: list[Any]) -> None:
    together = complete(sdk, prompt=prompts)
    alone = [texts(complete(sdk, prompt=prompt))[0] for prompt in prompts]
    assert texts(together) == alone and [choice.index for choice in together.choices] == [0, 1]
    assert together.usage and together.usage.completion_tokens == 12


def test_n_answers_of_each_of_several_prompts_stand_together(sdk: openai.OpenAI) -> None:
    answer = complete(sdk, prompt=[PROMPT, "Once"], n=2, temperature=1, seed=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    first = complete(sdk, n=2, temperature=1, seed=3)
    assert texts(answer)[:2] == texts(first)


def test_echo_begins_with_the_prompt(sdk: openai.OpenAI) -> None:
    assert texts(complete(sdk, echo=True)) == [PROMPT + texts(complete(sdk))[0]]


def test_log_probabilities_with_echo_cover_the_prompt(sdk: openai.OpenAI) -> None:
    choice = complete(sdk, echo=True, logprobs=3).choices[0]
    logprobs = choice.logprobs
    assert logprobs and logprobs.tokens and logprobs.token_logprobs and logprobs.top_logprobs and logprobs.text_offset
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.text_offset) == 10
    assert "".join(logprobs.tokens) == choice.text
    assert logprobs.token_logprobs[0] is None and all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert [choice.text[place:].startswith(token) for place, token in zip(logprobs.text_offset, logprobs.tokens, strict=True)]
    assert all(len(top) in (3, 4) for top in logprobs.top_logprobs[1:])  # the chosen token is told too


def test_the_prompt_alone_can_be_scored(sdk: openai.OpenAI) -> None:
    choice = complete(sdk, echo=True, logprobs=1, max_tokens=0).choices[0]
    assert choice.text == PROMPT and choice.logprobs and choice.logprobs.tokens and len(choice.logprobs.tokens) == 4


def test_best_of_gives_the_most_probable_answers(sdk: openai.OpenAI) -> None:
    """The same seed writes the same candidates: the best of them is what n = 4 tells as the most probable one."""
    asked: dict[str, Any] = {"temperature": 1.2, "top_p": 1, "seed": 11, "logprobs": 1}
    every = complete(sdk, n=4, **asked)
    best = complete(sdk, best_of=4, n=1, **asked)

    def mean(choice: Any) -> float:
        values = choice.logprobs.token_logprobs
        return sum(values) / len(values)

    assert texts(best) == [max(every.choices, key=mean).text]
    assert best.usage and every.usage and best.usage.completion_tokens == every.usage.completion_tokens


def logprob(sdk: openai.OpenAI, context: list[int], token: int) -> float:
    """What the model itself gives ``token`` after ``context``."""
    logprobs = complete(sdk, prompt=[*context, token], echo=True, logprobs=0, max_tokens=0).choices[0].logprobs
    assert logprobs and logprobs.token_logprobs and logprobs.token_logprobs[-1] is not None
    return logprobs.token_logprobs[-1]


@pytest.mark.parametrize("penalty", [{"presence_penalty": 2}, {"frequency_penalty": 2}, {"repetition_penalty": 1.1}])
def test_a_penalty_holds_back_what_was_generated_and_not_what_the_prompt_holds(
    sdk: openai.OpenAI, penalty: dict[str, float]
) -> None:
    """A bias puts two tokens far above all others, and one of them ahead by 1 after itself. The prompt ends with it, too."""
    prompt = [*TOKENS, HELLO]

    def lead(context: list[int], other: int) -> float:
        return logprob(sdk, context, HELLO) - logprob(sdk, context, other)

    leads = {other: lead([*prompt, HELLO], other) for other in OTHERS}
    other = next(other for other in OTHERS if lead(prompt, other) > leads[other] - 0.5)  # ahead in the first place, too
    bias = {HELLO: 80.0, other: 80.0 + leads[other] - 1}
    names = {HELLO: " hello", other: str(sdk.post("/../detokenize", body={"tokens": [other]}, cast_to=object)["prompt"])}  # type: ignore[index]
    assert texts(complete(sdk, prompt=prompt, logit_bias=bias, max_tokens=2)) == [" hello hello"]
    held_back = complete(sdk, prompt=prompt, logit_bias=bias, max_tokens=2, extra_body=penalty)
    assert texts(held_back) == [names[HELLO] + names[other]]


def test_a_streamed_answer_is_the_whole_answer(sdk: openai.OpenAI) -> None:
    chunks = list(
        sdk.completions.create(
            model=MODEL, prompt=[PROMPT, "Once"], max_tokens=6, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    streamed = ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    whole = complete(sdk, prompt=[PROMPT, "Once"])
    assert streamed == texts(whole)
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage and len({chunk.id for chunk in chunks}) == 1


def test_suffix_is_refused_by_name(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="suffix") as refused:
        complete(sdk, suffix="the end")
    assert refused.value.param == "suffix"


def test_models_are_listed_and_retrieved(sdk: openai.OpenAI) -> None:
    listed = list(sdk.models.list())
    assert len(listed) >= 3 and all(model.object == "model" and model.created and model.owned_by for model in listed)
    assert all(sdk.models.retrieve(model.id) == model for model in listed)
    assert sdk.models.retrieve(MODEL).id in {model.id for model in listed}
    answers = {model.id: texts(complete(sdk, model=model.id, prompt="a", max_tokens=2)) for model in listed}
    assert len(answers) == len(listed)
