"""The pool's promises, without a decoder: what is evicted, what is reused, what is forgotten."""

import numpy as np
import pytest

from backends.onnx_decoder.kv_pool import COPY_AT_LEAST, REFUSED_FOR, STALE_AFTER, KvPool

PROMPT = np.arange(100, 160, dtype=np.int32)
OTHER = np.arange(500, 560, dtype=np.int32)


class Clock:
    now, step = 0.0, 1.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def copies() -> list[tuple[int, int, int]]:
    return []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(copies: list[tuple[int, int, int]], clock: Clock) -> KvPool:
    return KvPool(slots=3, context_length=128, copy=lambda *copy: copies.append(copy), clock=clock)


def begin(pool: KvPool, sequence_id: int, tokens: np.ndarray) -> tuple[int, int]:
    """Begins and computes a whole sequence; returns its slot and how many tokens were reused."""
    slot = pool.begin(sequence_id, tokens, len(tokens) - 1)
    assert slot >= 0
    reused = int(pool.lengths[slot])
    pool.append(np.array([slot]), np.array([len(tokens) - reused]), tokens[reused:])
    return slot, reused


def find(pool: KvPool, sequence_id: int, past_length: int) -> int:
    (slot,) = pool.find([sequence_id], np.array([past_length])).tolist()
    return int(slot)


def test_unknown_sequence_is_not_found(pool: KvPool) -> None:
    assert find(pool, 7, 1) == -1


def test_smaller_past_rolls_back_and_larger_is_unknown(pool: KvPool) -> None:
    slot, _ = begin(pool, 1, PROMPT)
    assert find(pool, 1, 40) == slot
    assert pool.lengths[slot] == 40
    assert find(pool, 1, 41) == -1


def test_many_sequences_are_found_at_once_each_by_what_is_cached_of_it(pool: KvPool) -> None:
    slots = [begin(pool, sequence_id, OTHER + sequence_id)[0] for sequence_id in range(3)]
    found = pool.find([2, 7, 0, 1], np.array([60, 5, 61, 20]))
    assert found.tolist() == [slots[2], -1, -1, slots[1]]
    assert pool.lengths[slots].tolist() == [60, 20, 60]
    assert pool.find([0, 1], np.array([0, 0])).tolist() == [-1, -1]  # they begin again


def test_what_many_slots_append_is_known_as_a_prefix(pool: KvPool, copies: list) -> None:
    slots = np.array([begin(pool, sequence_id, OTHER + sequence_id)[0] for sequence_id in range(2)])
    pool.append(slots, np.array([1, 3]), np.array([7, 8, 9, 10], np.int32))
    pool.append(slots, np.array([1, 1]), np.array([11, 12], np.int32))
    assert pool.lengths[slots].tolist() == [62, 64]
    pool.release(1)
    continued = np.concatenate([OTHER + 1, [8, 9, 10, 12, 13]]).astype(np.int32)
    assert begin(pool, 5, continued) == (slots[1], 64)


def test_continuing_a_finished_sequence_takes_its_slot_over_without_a_copy(pool: KvPool, copies: list) -> None:
    slot, _ = begin(pool, 1, PROMPT)
    pool.release(1)
    assert begin(pool, 2, np.concatenate([PROMPT, OTHER])) == (slot, len(PROMPT))
    assert copies == []


def test_prefix_of_a_running_sequence_is_copied_and_both_go_on(pool: KvPool, copies: list) -> None:
    first, _ = begin(pool, 1, PROMPT)
    second, reused = begin(pool, 2, np.concatenate([PROMPT[:30], OTHER]))
    assert (reused, copies) == (30, [(first, second, 30)])
    assert find(pool, 1, len(PROMPT)) == first


def test_short_common_prefix_is_not_copied(pool: KvPool, copies: list) -> None:
    begin(pool, 1, PROMPT)
    _, reused = begin(pool, 2, np.concatenate([PROMPT[: COPY_AT_LEAST - 1], OTHER]))
    assert (reused, copies) == (0, [])


def test_the_last_token_is_always_left_to_compute(pool: KvPool) -> None:
    begin(pool, 1, PROMPT)
    pool.release(1)
    _, reused = begin(pool, 2, PROMPT)
    assert reused == len(PROMPT) - 1


def test_no_slot_while_all_sequences_run(pool: KvPool) -> None:
    for sequence_id in range(3):
        begin(pool, sequence_id, OTHER + sequence_id)
    assert pool.begin(9, PROMPT, 10) == -1


def test_least_recently_used_idle_slot_is_evicted_first(pool: KvPool) -> None:
    slots = [begin(pool, sequence_id, OTHER + sequence_id)[0] for sequence_id in range(3)]
    for sequence_id in (2, 0, 1):
        assert find(pool, sequence_id, 60) >= 0
    for sequence_id in range(3):
        pool.release(sequence_id)
    assert begin(pool, 9, PROMPT)[0] == slots[2]


def test_running_sequence_is_evicted_only_when_its_gateway_was_silent_for_long(pool: KvPool, clock: Clock) -> None:
    slots = [begin(pool, sequence_id, OTHER + sequence_id)[0] for sequence_id in range(3)]
    clock.now += STALE_AFTER + 10
    pool.find([0, 2], np.array([60, 60]))
    assert begin(pool, 9, PROMPT)[0] == slots[1]
    assert find(pool, 1, 1) == -1


def test_beginning_again_keeps_what_is_still_true(pool: KvPool) -> None:
    slot, _ = begin(pool, 1, PROMPT)
    changed = np.concatenate([PROMPT[:25], OTHER])
    assert begin(pool, 1, changed) == (slot, 25)


def test_releasing_an_unknown_sequence_changes_nothing(pool: KvPool) -> None:
    slot, _ = begin(pool, 1, PROMPT)
    pool.release(99)
    assert find(pool, 1, len(PROMPT)) == slot


def test_a_probe_of_one_token_leaves_an_empty_slot_behind(pool: KvPool) -> None:
    """Otherwise every health check would push a reusable prefix out."""
    begin(pool, 1, PROMPT)
    pool.release(1)
    begin(pool, 2, OTHER)
    pool.release(2)
    for probe in range(10, 20):
        begin(pool, probe, np.zeros(1, np.int32))
        pool.release(probe)
    assert begin(pool, 3, PROMPT)[1] == len(PROMPT) - 1
    assert begin(pool, 4, OTHER)[1] == len(OTHER) - 1


def of(gateway: int, sequence: int) -> int:
    return gateway << 48 | sequence


def test_the_next_free_slot_is_kept_for_the_gateway_that_was_refused_first(pool: KvPool, clock: Clock) -> None:
    clock.step = 0.0
    for sequence in range(3):
        begin(pool, of(1, sequence), PROMPT + sequence)
    assert pool.begin(of(2, 0), OTHER, 59) == pool.begin(of(3, 0), OTHER, 59) == -1
    pool.release(of(1, 0))
    assert pool.begin(of(1, 9), PROMPT, 59) == pool.begin(of(3, 1), OTHER, 59) == -1
    assert pool.begin(of(2, 7), OTHER, 59) >= 0  # any of its sequences
    pool.release(of(1, 1))
    assert pool.begin(of(2, 8), OTHER, 59) == -1
    pool.release(of(1, 2))
    assert pool.begin(of(1, 9), OTHER, 59) >= 0  # two are free, and one gateway was before it
    assert pool.begin(of(2, 8), OTHER, 59) == -1
    assert pool.begin(of(3, 1), OTHER, 59) >= 0


def test_a_gateway_that_does_not_ask_again_keeps_no_slot(pool: KvPool, clock: Clock) -> None:
    clock.step = 0.0
    for sequence in range(3):
        begin(pool, of(1, sequence), PROMPT + sequence)
    assert pool.begin(of(2, 0), OTHER, 59) == -1
    pool.release(of(1, 0))
    clock.now += REFUSED_FOR
    assert pool.begin(of(1, 9), PROMPT, 59) >= 0


def test_a_spare_position_is_behind_all_that_is_cached(pool: KvPool) -> None:
    assert pool.spare() == (0, 0)
    slots = [begin(pool, sequence, PROMPT[: 20 + sequence] + sequence)[0] for sequence in (9, 3, 6)]
    assert pool.spare() == (slots[1], 23)
    assert find(pool, 3, 23) == slots[1]


def test_where_all_is_full_a_spare_position_costs_one_token(clock: Clock) -> None:
    pool = KvPool(slots=1, context_length=60, copy=lambda *_: None, clock=clock)
    begin(pool, 1, PROMPT)
    assert pool.spare() == (0, 59)
    assert find(pool, 1, 60) == -1 and find(pool, 1, 59) == 0


def test_a_cache_that_grows_takes_no_more_than_the_memory_has_room_for(clock: Clock) -> None:
    """Else another model's growth, or another program's, would end in the kernel's killing Triton."""
    room = 250
    pool = KvPool(slots=3, context_length=128, copy=lambda *_: None, clock=clock, room=lambda: room)
    begin(pool, 1, PROMPT)
    assert pool.begin(2, OTHER, 59) >= 0  # 68 tokens of the first may follow, and 128 of this one
    assert pool.begin(3, OTHER, 59) == -1  # waits, although a slot is free
    pool.release(1)
    room = 200
    assert begin(pool, 3, OTHER[1:]) == (0, 0)  # the memory of one that has ended serves again
    assert pool.begin(4, OTHER, 59) == -1
    pool.release(3)
    pool.release(2)
    room = 0
    assert pool.begin(5, OTHER, 59) >= 0  # one always runs


def test_a_cache_without_room_still_takes_the_slot_of_a_gateway_that_died(clock: Clock) -> None:
    pool = KvPool(slots=3, context_length=128, copy=lambda *_: None, clock=clock, room=lambda: 0)
    begin(pool, 1, PROMPT)
    clock.now += STALE_AFTER
    assert begin(pool, 2, OTHER)[0] == 0
