"""The wire contract, spoken to a real Triton: docs/wire-contract.md, rule by rule."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import numpy as np
import pytest
from tokenizers import Tokenizer
from tritonclient.grpc import service_pb2 as pb

from backends.onnx_decoder.contract.drawing import DrawingRule, Rules, sample, uniforms
from backends.onnx_decoder.contract.limits import JOINED_TOKENS, MOST_RUN_AHEAD, NO_SLOT, UNKNOWN
from backends.onnx_decoder.contract.step import StepAnswer, StepRow
from backends.onnx_decoder.contract.tensors import RESULT_FIELDS
from gateway.text.model import Model
from gateway.triton.client import TritonClient, step_request
from serve.triton_server import TritonServer
from tests.conftest import DEMO, TINY, version_directory

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_event_loop")]
described: list[Model] = []
PROMPT = np.random.default_rng(5).integers(0, 50257, 60).astype(np.int32)
OTHER = np.random.default_rng(6).integers(0, 50257, 60).astype(np.int32)


@pytest.fixture
async def client(triton: TritonServer) -> AsyncIterator[TritonClient]:
    async with TritonClient(triton.grpc_address) as client:
        yield client


def row(sequence_id: int, past: int, tokens: np.ndarray, limit: int = 4096, logits: int = 1, full: bool = False) -> StepRow:
    return StepRow(sequence_id, past, tokens, limit, logits, full)


async def tiny(client: TritonClient) -> Model:
    """Described once: every Triton of these tests has loaded the same export."""
    if not described:
        described.append(await client.describe(TINY))
    return described[0]


async def step(client: TritonClient, *rows: StepRow, release: tuple[int, ...] = ()) -> StepAnswer:
    return await client.step(await tiny(client), list(rows), list(release))


async def whole(client: TritonClient, tokens: np.ndarray, logits: int = 1) -> StepAnswer:
    """The answer for ``tokens`` computed alone and at once. The sequence's cache is overwritten first, so nothing is reused."""
    await step(client, row(999, 0, np.array([7], np.int32)))
    answer = await step(client, row(999, 0, tokens, logits=logits, full=True))
    await step(client, release=(999,))
    return answer


def assert_same(one: StepAnswer, other: StepAnswer) -> None:
    np.testing.assert_allclose(one.candidate_logit, other.candidate_logit, atol=2e-4)
    assert (one.candidate_id[:, 0] == other.candidate_id[:, 0]).all()


async def test_description_holds_what_a_gateway_needs(client: TritonClient) -> None:
    model: Model = await client.describe(TINY)
    assert model.checkpoint == "tiny-gpt2.pt"
    assert (model.vocabulary_size, model.candidates, model.slots) == (50257, 64, 16)
    assert model.tokenizer.encode("The king") == [464, 5822]
    assert model.end_tokens == {50256}
    assert (model.joined_tokens, model.most_run_ahead) == (JOINED_TOKENS, MOST_RUN_AHEAD)


async def test_candidates_are_the_best_of_the_full_logits(client: TritonClient) -> None:
    answer = await whole(client, PROMPT)
    logits = answer.logits[0].astype(np.float64)
    assert logits.shape == (50257,)
    np.testing.assert_array_equal(answer.candidate_logit[0], -np.sort(-answer.logits[0])[:64])
    np.testing.assert_array_equal(answer.logits[0][answer.candidate_id[0]], answer.candidate_logit[0])


async def test_cached_decode_gives_what_the_whole_sequence_gives(client: TritonClient) -> None:
    await step(client, row(1, 0, PROMPT[:40], logits=0))
    for length in range(41, 50):
        answer = await step(client, row(1, length - 1, PROMPT[length - 1 : length]))
        assert answer.cached_length.tolist() == [length]
        assert_same(answer, await whole(client, PROMPT[:length]))
    await step(client, release=(1,))


async def test_chunks_give_what_the_whole_prompt_gives(client: TritonClient) -> None:
    past = 0
    while past < len(PROMPT):
        answer = await step(client, row(2, past, PROMPT[past:], limit=17))
        assert len(answer.candidate_id) == (answer.cached_length[0] == len(PROMPT))
        past = int(answer.cached_length[0])
    assert_same(answer, await whole(client, PROMPT))
    await step(client, release=(2,))


async def test_rows_of_any_lengths_in_one_step_do_not_disturb_each_other(client: TritonClient) -> None:
    """A decode row, a verification row, a long prefill and a chunk that does not end, together and alone."""
    await step(client, row(1, 0, PROMPT[:30]), row(2, 0, OTHER[:20]))
    answer = await step(
        client,
        row(1, 30, PROMPT[30:31]),
        row(2, 20, OTHER[20:24], logits=4),
        row(3, 0, PROMPT[::-1].copy()),
        row(4, 0, OTHER[::-1].copy(), limit=25),
    )
    assert answer.cached_length.tolist() == [31, 24, 60, 25]
    expected = [
        await whole(client, PROMPT[:31]),
        await whole(client, OTHER[:24], logits=4),
        await whole(client, PROMPT[::-1].copy()),
    ]
    for got, one in zip(np.split(answer.candidate_logit, [1, 5]), expected, strict=True):
        np.testing.assert_allclose(got, one.candidate_logit, atol=2e-4)
    await step(client, release=(1, 2, 3, 4))


async def test_rollback_forgets_the_tail(client: TritonClient) -> None:
    await step(client, row(1, 0, PROMPT))
    answer = await step(client, row(1, 30, OTHER[:5]))
    assert answer.cached_length.tolist() == [35]
    assert_same(answer, await whole(client, np.concatenate([PROMPT[:30], OTHER[:5]])))
    await step(client, release=(1,))


async def test_a_row_that_runs_ahead_draws_what_it_would_be_given_token_by_token(client: TritonClient) -> None:
    rule = DrawingRule(1.0, 40, 0.95, 0.0, 2**64 - 3)
    written = PROMPT
    for _ in range(10):
        answer = await step(client, row(1, 0, written))
        uniform = uniforms(np.array([rule.seed], np.uint64), np.array([len(written)]))
        written = np.append(written, sample(answer.candidate_id, answer.candidate_logit, Rules.of([rule]), uniform))
    await step(client, row(2, 0, OTHER))
    ahead = StepRow(3, 0, PROMPT, 4096, run_ahead=10, rule=rule)
    answer = await client.step(await tiny(client), [row(2, 60, OTHER[:1]), ahead], [1], time_budget=10.0)
    assert answer.cached_length.tolist() == [61, 70] and answer.drawn_count.tolist() == [0, 10]
    assert answer.drawn.tolist() == written[60:].tolist()
    assert answer.candidate_id.shape == answer.candidate_logit.shape == (12, 64) and answer.log_normalizer.shape == (12,)
    assert 0 < answer.compute_seconds < 10
    answer = await client.step(await tiny(client), [ahead], [2], time_budget=0.0)
    assert answer.cached_length.tolist() == [60] and len(answer.drawn) == 0
    await step(client, release=(3,))


async def test_a_run_ahead_ends_where_the_model_ends_its_text(client: TritonClient, model_repository: Path) -> None:
    model = await client.describe(DEMO)
    tokenizer = Tokenizer.from_file(str(version_directory(model_repository, DEMO) / "tokenizer.json"))
    asked = "<|im_start|>user\nSay yes.<|im_end|>\n<|im_start|>assistant\n"
    prompt = np.array(tokenizer.encode(asked, add_special_tokens=False).ids, np.int32)
    greedy = DrawingRule(0.0, 0, 1.0, 0.0, 0)
    rows = [StepRow(n, 0, prompt, 4096, run_ahead=60, rule=greedy, ignore_end=n == 2) for n in (1, 2)]
    answer = await client.step(model, rows, [])
    written = answer.drawn_count[0]
    assert 0 < written < 60 == answer.drawn_count[1]
    text, end = answer.drawn[:written].tolist(), int(answer.candidate_id[written, 0])
    assert end in model.end_tokens and not model.end_tokens & set(text)
    assert answer.drawn[written : 2 * written + 1].tolist() == [*text, end]
    await client.step(model, [], [1, 2])


async def test_unknown_sequence_is_answered_so_and_computes_nothing(client: TritonClient) -> None:
    answer = await step(client, row(12345, 10, PROMPT[10:]))
    assert (answer.cached_length.tolist(), len(answer.candidate_id)) == ([UNKNOWN], 0)


async def test_the_same_step_sent_twice_gives_the_same_answer(client: TritonClient) -> None:
    await step(client, row(1, 0, PROMPT[:40]))
    answers = [await step(client, row(1, 40, PROMPT[40:41])) for _ in range(2)]
    assert_same(*answers)
    assert answers[1].cached_length.tolist() == [41]
    await step(client, release=(1,))


async def test_a_finished_sequence_serves_as_prefix_of_the_next(client: TritonClient) -> None:
    start = np.random.default_rng(9).integers(0, 50257, 50).astype(np.int32)
    await step(client, row(1, 0, start), release=())
    await step(client, release=(1,))
    answer = await step(client, row(2, 0, np.concatenate([start, OTHER]), limit=1))
    assert (answer.cached_length.tolist(), answer.reused_length.tolist()) == ([51], [50])  # 50 found, 1 computed
    answer = await step(client, row(2, 51, OTHER[1:]))
    assert_same(answer, await whole(client, np.concatenate([start, OTHER])))
    await step(client, release=(2,))


async def test_full_pool_says_so_and_serves_the_rest(start_triton: Callable[..., AbstractContextManager[TritonServer]]) -> None:
    with start_triton(TINY, slots=2) as triton:
        async with TritonClient(triton.grpc_address) as client:
            answer = await step(client, row(1, 0, PROMPT[:5]), row(2, 0, OTHER[:5]))
            assert answer.cached_length.tolist() == [5, 5]
            answer = await step(client, row(3, 0, OTHER), row(1, 5, PROMPT[5:6]))
            assert answer.cached_length.tolist() == [NO_SLOT, 6]
            answer = await step(client, row(3, 0, OTHER), release=(2,))
            assert answer.cached_length.tolist() == [60]
            answer = await step(client, row(2, 5, OTHER[5:6]))
            assert answer.cached_length.tolist() == [UNKNOWN]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (row(8, 0, np.array([50257], np.int32)), "tokens"),
        (row(8, 0, np.array([-1], np.int32)), "tokens"),
        (row(8, 1000, PROMPT), "token_count"),
        (row(8, 0, PROMPT, limit=0), "token_limit"),
        (row(8, 0, PROMPT, logits=61), "logit_count"),
        (row(8, -1, PROMPT), "past_length"),
        (StepRow(8, 0, PROMPT, 4096, logit_count=2, run_ahead=1), "run_ahead"),
    ],
)
async def test_bad_step_is_invalid_argument_and_harms_no_other(client: TritonClient, bad: StepRow, field: str) -> None:
    await step(client, row(1, 0, PROMPT[:40]))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client._stub.ModelInfer(step_request(await tiny(client), [row(1, 40, PROMPT[40:41]), bad], []))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details().startswith(f"{field}: ")
    assert_same(await step(client, row(1, 40, PROMPT[40:41])), await whole(client, PROMPT[:41]))
    await step(client, release=(1,))


async def test_wrong_type_is_invalid_argument(client: TritonClient) -> None:
    request = step_request(await tiny(client), [row(8, 0, PROMPT)], [])
    tokens = next(tensor for tensor in request.inputs if tensor.name == "tokens")
    tokens.datatype = "INT64"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client._stub.ModelInfer(request)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_steps_of_many_gateways_at_once_each_get_their_own_answer(triton: TritonServer) -> None:
    """They are merged into common forward passes, one bad among them; each gets what it would get alone."""
    prompts = [np.random.default_rng(100 + n).integers(0, 50257, 20 + n).astype(np.int32) for n in range(12)]
    clients = [TritonClient(triton.grpc_address) for _ in prompts]
    try:
        for _ in range(5):
            wrong = row(50, 0, np.array([-1], np.int32))
            bad = clients[0]._stub.ModelInfer(step_request(await tiny(clients[0]), [wrong], []))
            steps = [step(client, row(100 + n, 0, prompts[n])) for n, client in enumerate(clients)]
            refused, *answers = await asyncio.gather(bad, *steps, return_exceptions=True)
            assert isinstance(refused, grpc.aio.AioRpcError) and refused.code() == grpc.StatusCode.INVALID_ARGUMENT
        for n, answer in enumerate(answers):
            assert isinstance(answer, StepAnswer)
            assert_same(answer, await whole(clients[0], prompts[n]))
        await step(clients[0], release=tuple(100 + n for n in range(len(prompts))))
    finally:
        for client in clients:
            await client.__aexit__()


async def test_empty_request_is_a_step_of_nothing(client: TritonClient) -> None:
    request = pb.ModelInferRequest(model_name=TINY, raw_input_contents=[b""])
    request.inputs.add(name="tokens", datatype="INT32", shape=(1, 0))
    answer = await client._stub.ModelInfer(request)
    assert list(answer.outputs[0].shape) == [1, 0, len(RESULT_FIELDS)]
