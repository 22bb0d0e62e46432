from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from nano import errors
from nano._core import counters
from nano._core.kv import BlockPool
from nano._core.sched import Batch, Committed, Scheduler


@pytest.fixture
def live() -> Callable[[str], int]:
    """How many more of a counted resource are alive than when the test began."""
    before = counters()
    return lambda name: counters()[name] - before[name]


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def prompt(length: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + length, dtype=np.int32)


def make(
    num_blocks: int = 16,
    block_size: int = 4,
    budget: int = 32,
    max_num_seqs: int = 8,
    max_model_len: int = 64,
    **options: float,
) -> Scheduler:
    return Scheduler(BlockPool(num_blocks, block_size), budget, max_num_seqs, max_model_len, **options)


def step(scheduler: Scheduler, token: int = 100) -> Committed:
    """One step in which every sample is `token`."""
    batch = scheduler.schedule()
    assert batch is not None
    committed = scheduler.commit(np.full(batch.num_samples, token, np.int32))
    scheduler.check()
    return committed


def rows(batch: Batch | None) -> dict[int, int]:
    """Request id -> scheduled tokens."""
    assert batch is not None
    return dict(zip(batch.ids.tolist(), np.diff(batch.cu_query).tolist(), strict=True))


def finish_all(scheduler: Scheduler) -> list[tuple[int, int, int]]:
    """(id, index, finish) of every token until nothing is left."""
    out = []
    while scheduler.has_work():
        done = step(scheduler)
        out += list(zip(done.ids.tolist(), done.indices.tolist(), done.finish.tolist(), strict=True))
    return out


def test_a_batch_describes_prompt_and_decode() -> None:
    scheduler = make()
    scheduler.add(7, prompt(6), 3, temperature=0.5, top_p=0.9, top_k=4, seed=2**63)
    batch = scheduler.schedule()
    assert batch is not None
    assert (batch.step, batch.num_seqs, batch.num_tokens, batch.num_samples) == (0, 1, 6, 1)
    assert batch.token_ids.tolist() == list(range(6))
    assert batch.positions.tolist() == list(range(6))
    assert batch.slots.tolist() == [0, 1, 2, 3, 4, 5]
    assert batch.cu_query.tolist() == [0, 6]
    assert batch.context_lens.tolist() == [6]
    assert batch.block_tables.tolist() == [[0, 1]]
    assert (batch.sample_rows.tolist(), batch.sample_seqs.tolist()) == ([5], [0])
    assert batch.sample_positions.tolist() == [6]
    assert batch.temperature.tolist() == [0.5]
    assert batch.top_p.tolist() == [np.float32(0.9)]
    assert (batch.top_k.tolist(), batch.seeds.tolist()) == ([4], [2**63])
    done = scheduler.commit(ids(42))
    assert (done.ids.tolist(), done.indices.tolist(), done.tokens.tolist()) == ([7], [0], [42])
    assert (done.finish.tolist(), done.cached.tolist()) == ([0], [0])
    batch = scheduler.schedule()
    assert batch is not None
    assert (batch.step, batch.token_ids.tolist(), batch.positions.tolist(), batch.slots.tolist()) == (1, [42], [6], [6])
    scheduler.abort(7)
    scheduler.commit(ids(1))


def test_a_batch_has_the_sampling_of_the_rows_that_sample() -> None:
    scheduler = make(budget=10)
    scheduler.add(1, prompt(3), 3, min_p=0.25, repetition_penalty=1.5, logprobs=2)
    scheduler.add(2, prompt(3, 10), 3, logit_bias={7: 1.5, 3: -2.0}, presence_penalty=0.5, seed=9)
    scheduler.add(3, prompt(3, 20), 3)
    scheduler.add(4, prompt(8, 30), 3, min_p=0.75, frequency_penalty=1.0, logit_bias={1: 1.0})  # cut: samples nothing
    batch = scheduler.schedule()
    assert batch is not None
    assert batch.num_samples == 3
    assert batch.min_p.tolist() == [0.25, 0, 0]
    assert batch.repetition_penalty.tolist() == [1.5, 1, 1]
    assert batch.presence_penalty.tolist() == [0, 0.5, 0]
    assert batch.frequency_penalty.tolist() == [0, 0, 0]
    assert batch.num_logprobs.tolist() == [2, -1, -1]
    assert batch.bias_start.tolist() == [0, 0, 2, 2]
    assert (batch.bias_ids.tolist(), batch.bias_values.tolist()) == ([7, 3], [1.5, -2.0])
    assert batch.penalized.tolist() == [0, 1]
    scheduler.commit(ids(50, 51, 52))
    batch = scheduler.schedule()
    assert batch is not None
    assert batch.ids[batch.sample_seqs].tolist() == [1, 2, 3, 4]
    assert batch.min_p.tolist() == [0.25, 0, 0, 0.75]
    assert batch.frequency_penalty.tolist() == [0, 0, 0, 1]
    assert batch.bias_start.tolist() == [0, 0, 2, 2, 3]
    assert batch.penalized.tolist() == [0, 1, 3]
    for row, (first, outputs) in enumerate([(0, [50]), (10, [51]), (20, [52])]):
        tokens, out = batch.history(row)
        assert (tokens.tolist(), out.tolist()) == (prompt(3, first).tolist(), outputs)
    assert [part.tolist() for part in batch.history(3)] == [prompt(8, 30).tolist(), []]
    with pytest.raises(errors.InvalidInput, match="samples 4 rows, got row 4"):
        batch.history(4)
    scheduler.commit(ids(1, 2, 3, 4))
    with pytest.raises(errors.InvalidInput, match="step 1 is committed"):
        batch.history(0)
    for id in (1, 2, 3, 4):
        scheduler.abort(id)


def test_views_share_memory_and_keep_their_scheduler_alive() -> None:
    scheduler = make()
    scheduler.add(1, prompt(6), 3)
    batch = scheduler.schedule()
    assert batch is not None
    tokens = batch.token_ids
    assert np.shares_memory(tokens, batch.token_ids)
    del scheduler, batch
    assert tokens.tolist() == list(range(6))
    del tokens  # the counters say that all of it is gone now


def test_decodes_come_first_and_prompts_share_the_rest_of_the_budget_in_chunks() -> None:
    scheduler = make(budget=8)
    scheduler.add(1, prompt(4), 10)
    step(scheduler)
    scheduler.add(2, prompt(10, 50), 10)
    scheduler.add(3, prompt(3, 90), 10)
    batch = scheduler.schedule()
    assert rows(batch) == {1: 1, 2: 7}
    assert batch is not None
    assert batch.sample_seqs.tolist() == [0]
    scheduler.commit(ids(100))
    assert scheduler.num_computed(2) == 7
    assert rows(scheduler.schedule()) == {1: 1, 2: 3, 3: 3}
    scheduler.commit(ids(100, 100, 100))
    assert scheduler.stats()["split_chunks"] == 1


def test_smaller_priority_numbers_go_first_and_equals_by_arrival() -> None:
    scheduler = make(max_num_seqs=1)
    for id, priority in ((1, 5), (2, 0), (3, 0), (4, -1)):
        scheduler.add(id, prompt(4, id * 10), 1, priority=priority)
    assert [id for id, _, _ in finish_all(scheduler)] == [4, 2, 3, 1]


def test_a_prompt_wholly_in_the_prefix_cache_recomputes_its_last_block() -> None:
    scheduler = make()
    scheduler.add(1, prompt(12), 1)
    step(scheduler)
    scheduler.add(2, prompt(12), 1)
    batch = scheduler.schedule()
    assert rows(batch) == {2: 4}
    assert batch is not None
    assert batch.context_lens.tolist() == [12]
    done = scheduler.commit(ids(5))
    assert done.cached.tolist() == [8]
    assert scheduler.stats()["prefix_hit_tokens"] == 8


def test_equal_prompts_in_one_batch_compute_privately_and_later_ones_share() -> None:
    scheduler = make()
    for id in (1, 2):
        scheduler.add(id, prompt(9), 4)
    assert rows(scheduler.schedule()) == {1: 9, 2: 9}
    assert not set(scheduler.block_table(1).tolist()) & set(scheduler.block_table(2).tolist())
    scheduler.commit(ids(1, 1))
    scheduler.add(3, prompt(9), 4)
    step(scheduler)
    assert scheduler.block_table(3)[:2].tolist() == scheduler.block_table(1)[:2].tolist()
    for id in (1, 2, 3):
        scheduler.abort(id)


def test_blocks_enter_the_prefix_index_at_commit_and_not_before() -> None:
    pool = BlockPool(16, 4)
    scheduler = Scheduler(pool, 32, 8, 64)
    scheduler.add(1, prompt(9), 4)
    scheduler.schedule()
    assert pool.num_cached == 0
    scheduler.commit(ids(1))
    assert pool.num_cached == 2
    scheduler.abort(1)


def test_outputs_are_cached_too() -> None:
    scheduler = make()
    scheduler.add(1, prompt(3), 7)
    while scheduler.has_work():
        step(scheduler, token=9)
    scheduler.add(2, np.append(prompt(3), np.full(7, 9, np.int32)), 1)
    assert rows(scheduler.schedule()) == {2: 2}
    scheduler.commit(ids(0))


def test_the_last_served_is_preempted_recomputes_and_emits_nothing_twice() -> None:
    scheduler = make(num_blocks=5, watermark=0.0)
    scheduler.add(1, prompt(7), 8)
    scheduler.add(2, prompt(7, 50), 8)
    seen: list[tuple[int, int]] = []
    preempted: list[int] = []
    while scheduler.has_work():
        batch = scheduler.schedule()
        assert batch is not None
        preempted += batch.preempted.tolist()
        done = scheduler.commit(np.full(batch.num_samples, 3, np.int32))
        seen += zip(done.ids.tolist(), done.indices.tolist(), strict=True)
        scheduler.check()
    assert preempted == [2]
    assert scheduler.stats()["preemptions"] == 1
    assert sorted(seen) == [(id, index) for id in (1, 2) for index in range(8)]


def test_a_preempted_request_finds_its_own_blocks_again_by_prefix() -> None:
    scheduler = make(num_blocks=6, watermark=0.0)
    scheduler.add(1, prompt(11), 3)
    scheduler.add(2, prompt(11, 50), 6)
    finish_all(scheduler)
    stats = scheduler.stats()
    assert stats["preemptions"] == 1
    assert stats["prefix_hit_tokens"] > 0


def test_a_preempted_request_is_not_admitted_again_until_all_its_tokens_have_room() -> None:
    pool = BlockPool(8, 4, prefix_caching=False)
    scheduler = Scheduler(pool, 8, 4, 64, watermark=0.0)
    scheduler.add(1, prompt(7), 20)
    scheduler.add(2, prompt(15, 50), 6)
    while scheduler.has_work():
        batch = scheduler.schedule()
        assert batch is not None
        assert not set(batch.preempted.tolist()) & set(batch.ids.tolist())
        scheduler.commit(np.full(batch.num_samples, 3, np.int32))
    assert scheduler.stats()["preemptions"] == 1


def test_a_request_preempted_in_a_step_is_not_in_that_step_though_it_would_fit_again() -> None:
    """Its equal twin's blocks are in the prefix index, so that it needs fewer than it gave back."""
    scheduler = make(num_blocks=8, budget=10, watermark=0.0)
    scheduler.add(1, prompt(8), 4)
    scheduler.add(2, prompt(8), 4, priority=2)
    step(scheduler)
    scheduler.add(3, prompt(12, 50), 1, priority=1)
    assert rows(scheduler.schedule()) == {1: 1, 2: 6, 3: 3}
    scheduler.commit(ids(100, 100))
    assert rows(scheduler.schedule()) == {1: 1, 2: 1, 3: 5}
    scheduler.commit(ids(100, 100))
    batch = scheduler.schedule()
    assert batch is not None
    assert batch.preempted.tolist() == [2]
    assert rows(batch) == {1: 1, 3: 4}
    scheduler.commit(ids(100, 100))
    finish_all(scheduler)


def test_lower_priority_is_preempted_though_it_came_first() -> None:
    scheduler = make(num_blocks=5, watermark=0.0)
    scheduler.add(1, prompt(7), 8, priority=1)
    scheduler.add(2, prompt(7, 50), 8, priority=0)
    preempted: list[int] = []
    while scheduler.has_work():
        batch = scheduler.schedule()
        assert batch is not None
        preempted += batch.preempted.tolist()
        scheduler.commit(np.full(batch.num_samples, 3, np.int32))
    assert preempted == [1]


def test_admission_leaves_the_watermark_free() -> None:
    scheduler = make(num_blocks=10, budget=64, watermark=0.2)
    scheduler.add(1, prompt(20), 8)
    scheduler.add(2, prompt(16, 50), 8)  # 4 blocks, 5 free, 2 to be left
    assert rows(scheduler.schedule()) == {1: 20}
    scheduler.commit(ids(1))
    assert rows(scheduler.schedule()) == {1: 1}
    scheduler.commit(ids(1))
    scheduler.abort(1)
    assert rows(scheduler.schedule()) == {2: 16}
    scheduler.commit(ids(1))
    scheduler.abort(2)


@pytest.mark.parametrize(
    ("tokens", "max_tokens", "text"),
    [
        (prompt(0), 1, "prompt is empty"),
        (prompt(64), 1, "64 tokens and one more exceed max_model_len 64"),
        (prompt(4), 0, "max_tokens must be >= 1, got 0"),
        (prompt(4), 45, "needs 13 blocks for 49 tokens, the pool has 12"),
        (prompt(4), 2**62, "needs 16 blocks for 64 tokens, the pool has 12"),
    ],
)
def test_impossible_requests_are_refused_with_both_numbers(
    tokens: np.ndarray, max_tokens: int, text: str, live: Callable[[str], int]
) -> None:
    scheduler = make(num_blocks=13, watermark=0.1)
    for call in (scheduler.add, scheduler.reserve):
        with pytest.raises(errors.InvalidInput, match=text):
            call(1, tokens, max_tokens)
    assert not scheduler.has_work()
    assert live("requests") == 0
    scheduler.add(1, prompt(4), 44)
    scheduler.abort(1)


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("inf")},
        {"presence_penalty": 2.5},
        {"frequency_penalty": float("nan")},
        {"logit_bias": {-1: 0.5}},
        {"logit_bias": {1: 101.0}},
        {"logprobs": -2},
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidInput, match=next(iter(option))):
        make().add(1, prompt(4), 1, **option)


def test_unknown_or_mistyped_options_are_refused_by_name() -> None:
    scheduler = make()
    with pytest.raises(TypeError, match="temprature"):
        scheduler.add(1, prompt(4), 1, temprature=0.5)
    with pytest.raises(TypeError, match="seed"):
        scheduler.add(1, prompt(4), 1, seed=-1)
    with pytest.raises(TypeError, match="stop_ids"):
        scheduler.add(1, prompt(4), 1, stop_ids=["x"])
    with pytest.raises(TypeError, match="logit_bias"):
        scheduler.add(1, prompt(4), 1, logit_bias={"x": 1.0})
    assert not scheduler.has_work()


def test_a_request_that_is_known_or_unknown_is_refused_by_id() -> None:
    scheduler = make()
    scheduler.add(9, prompt(4), 1)
    with pytest.raises(errors.InvalidInput, match="9: the id is in use"):
        scheduler.add(9, prompt(4), 1)
    for call in (scheduler.open, scheduler.recompute, scheduler.release):
        with pytest.raises(errors.InvalidInput, match="request 9 is not"):
            call(9)
        with pytest.raises(errors.InvalidInput, match="no request 8"):
            call(8)
    assert not scheduler.abort(8)
    assert scheduler.abort(9)


@pytest.mark.parametrize(
    ("options", "tokens", "codes"),
    [
        ({"stop_ids": [5]}, [1, 5], [0, 1]),
        ({"stop_ids": [5], "min_tokens": 3}, [5, 5, 5], [0, 0, 1]),
        ({}, [5, 5, 5, 5], [0, 0, 0, 2]),
        ({"stop_ids": (5, 6)}, [1, 1, 1, 6], [0, 0, 0, 1]),
    ],
)
def test_a_request_ends_at_a_stop_id_or_at_its_length(
    options: dict[str, object], tokens: Sequence[int], codes: Sequence[int]
) -> None:
    scheduler = make()
    scheduler.add(1, prompt(4), 4, **options)
    assert [step(scheduler, token).finish[0] for token in tokens] == codes
    assert not scheduler.has_work()


def test_a_request_ends_at_the_models_length() -> None:
    scheduler = make(max_model_len=12)
    scheduler.add(1, prompt(9), 1000)
    assert [finish for _, _, finish in finish_all(scheduler)] == [0, 0, 2]


def test_gated_requests_wait_for_open_in_the_order_they_will_be_served() -> None:
    scheduler = make()
    for id, priority in ((1, 1), (2, 0), (3, 0)):
        scheduler.add(id, prompt(4, id * 10), 1, gated=True, priority=priority)
    assert not scheduler.has_work()
    assert scheduler.schedule() is None
    assert scheduler.next_gated(2).tolist() == [2, 3]
    scheduler.open(3)
    assert rows(scheduler.schedule()) == {3: 4}
    scheduler.commit(ids(1))
    assert scheduler.next_gated(5).tolist() == [2, 1]
    for id in (1, 2):
        assert scheduler.abort(id)


def test_hold_keeps_the_blocks_until_release() -> None:
    scheduler = make()
    scheduler.add(1, prompt(6), 1, hold=True)
    assert step(scheduler).finish.tolist() == [2]
    assert (len(scheduler.block_table(1)), scheduler.num_computed(1)) == (2, 6)
    assert scheduler.stats()["held"] == 1
    assert not scheduler.has_work()
    scheduler.release(1)
    assert scheduler.stats()["free_blocks"] == 16
    with pytest.raises(errors.InvalidInput):
        scheduler.release(1)


def test_a_reservation_runs_on_once_its_kv_and_first_token_are_there(live: Callable[[str], int]) -> None:
    pool = BlockPool(16, 4)
    scheduler = Scheduler(pool, 32, 8, 64)
    granted = scheduler.reserve(1, prompt(9), 3)
    assert granted is not None
    first, blocks = granted
    assert (first, len(blocks)) == (0, 3)
    assert live("grants") == 1
    assert not scheduler.has_work()
    assert pool.num_cached == 0
    assert scheduler.activate(1, 77) == 0
    assert live("grants") == 0
    assert pool.num_cached == 2
    batch = scheduler.schedule()
    assert batch is not None
    assert (batch.token_ids.tolist(), batch.positions.tolist()) == ([77], [9])
    assert batch.slots.tolist() == [blocks[2] * 4 + 1]
    assert scheduler.commit(ids(1)).indices.tolist() == [1]
    assert [index for _, index, _ in finish_all(scheduler)] == [2]


def test_a_reservation_takes_only_what_the_prefix_cache_lacks(live: Callable[[str], int]) -> None:
    scheduler = make()
    scheduler.add(1, prompt(9), 1)
    step(scheduler)
    granted = scheduler.reserve(2, prompt(13), 3)
    assert granted is not None
    first, blocks = granted
    assert (first, len(blocks)) == (2, 2)
    assert scheduler.num_computed(2) == 8
    assert scheduler.abort(2)
    assert live("grants") == 0


def test_a_reservation_may_end_with_its_first_token() -> None:
    scheduler = make()
    scheduler.reserve(1, prompt(9), 1)
    assert scheduler.activate(1, 5) == 2
    scheduler.reserve(2, prompt(9), 4, stop_ids=[5])
    assert scheduler.activate(2, 5) == 1
    scheduler.reserve(3, prompt(9), 4, stop_ids=[5], hold=True)
    assert scheduler.activate(3, 5) == 1
    assert scheduler.stats()["held"] == 1
    scheduler.release(3)
    assert scheduler.stats()["free_blocks"] == 16


def test_a_reservation_can_be_recomputed_here(live: Callable[[str], int]) -> None:
    scheduler = make()
    scheduler.reserve(1, prompt(9), 2)
    scheduler.recompute(1)
    assert live("grants") == 0
    assert rows(scheduler.schedule()) == {1: 9}
    assert scheduler.commit(ids(4)).indices.tolist() == [0]
    scheduler.abort(1)


def test_reservations_are_bounded_but_a_single_one_gets_its_turn() -> None:
    scheduler = make(num_blocks=20, max_reserved=0.2)
    assert scheduler.reserve(1, prompt(24), 1) is not None  # 6 of 20 blocks
    assert scheduler.reserve(2, prompt(4, 50), 1) is None
    assert scheduler.activate(1, 0) == 2
    assert scheduler.reserve(2, prompt(8, 50), 1) is not None
    assert scheduler.reserve(3, prompt(8, 70), 1) is not None
    assert scheduler.reserve(4, prompt(4, 90), 1) is None
    for id in (2, 3):
        assert scheduler.abort(id)


def test_reservations_take_a_sequences_place() -> None:
    scheduler = make(max_num_seqs=2)
    scheduler.add(1, prompt(4), 8)
    step(scheduler)
    assert scheduler.reserve(2, prompt(4, 50), 8) is not None
    assert scheduler.reserve(3, prompt(4, 60), 8) is None
    scheduler.add(4, prompt(4, 70), 8)
    assert rows(scheduler.schedule()) == {1: 1}
    scheduler.commit(ids(1))
    assert scheduler.activate(2, 1) == 0
    assert rows(scheduler.schedule()) == {1: 1, 2: 1}
    scheduler.commit(ids(1, 1))
    for id in (1, 2, 4):
        assert scheduler.abort(id)


def test_reservations_leave_the_watermark_free() -> None:
    scheduler = make(num_blocks=10, watermark=0.2)
    scheduler.add(1, prompt(24), 1, hold=True)
    step(scheduler)
    assert scheduler.reserve(2, prompt(12, 50), 1) is None
    assert scheduler.reserve(2, prompt(8, 50), 1) is not None
    scheduler.abort(2)
    scheduler.release(1)


def test_a_gated_reservation_is_refused() -> None:
    with pytest.raises(errors.InvalidInput, match="cannot be gated"):
        make().reserve(1, prompt(4), 1, gated=True)


def test_an_abort_frees_blocks_in_every_state(live: Callable[[str], int]) -> None:
    scheduler = make()
    scheduler.add(1, prompt(4), 4, gated=True)
    scheduler.add(2, prompt(4, 10), 1, hold=True)
    scheduler.add(3, prompt(4, 20), 4)
    step(scheduler)
    scheduler.add(4, prompt(4, 30), 4)
    scheduler.reserve(5, prompt(4, 40), 4)
    for id in (1, 2, 3, 4, 5):
        assert scheduler.abort(id)
        scheduler.check()
    assert scheduler.stats()["free_blocks"] == 16
    assert live("requests") == 0


def test_an_abort_during_a_step_keeps_the_blocks_until_its_commit() -> None:
    scheduler = make(num_blocks=4, watermark=0.0)
    scheduler.add(1, prompt(12), 2)
    scheduler.add(2, prompt(4, 50), 2)
    scheduler.schedule()
    assert scheduler.abort(1)
    assert not scheduler.abort(1)
    assert scheduler.stats()["free_blocks"] == 0
    assert scheduler.reserve(3, prompt(4, 90), 2) is None
    scheduler.add(1, prompt(4, 70), 1)  # the id is free again
    done = scheduler.commit(ids(8, 9))
    assert done.ids.tolist() == [1, 2]
    assert done.finish.tolist() == [3, 0]
    assert scheduler.stats()["free_blocks"] == 3
    scheduler.check()
    for id in (1, 2):
        assert scheduler.abort(id)


def test_schedule_and_commit_alternate() -> None:
    scheduler = make()
    with pytest.raises(errors.InvalidInput, match="no step is under way"):
        scheduler.commit(ids())
    scheduler.add(1, prompt(4), 2)
    scheduler.schedule()
    with pytest.raises(errors.InvalidInput, match="step 0 is not committed"):
        scheduler.schedule()
    with pytest.raises(errors.InvalidInput, match="samples 1 tokens, got 2"):
        scheduler.commit(ids(1, 2))
    assert scheduler.commit(ids(1)).finish.tolist() == [0]
    scheduler.abort(1)


def test_a_step_that_only_prefills_commits_no_tokens() -> None:
    scheduler = make(budget=4)
    scheduler.add(1, prompt(8), 1)
    batch = scheduler.schedule()
    assert batch is not None
    assert batch.num_samples == 0
    assert len(scheduler.commit(ids()).ids) == 0
    assert step(scheduler).finish.tolist() == [2]


def test_a_scheduler_that_dies_with_requests_gives_everything_back(live: Callable[[str], int]) -> None:
    pool = BlockPool(16, 4)
    scheduler = Scheduler(pool, 32, 8, 64)
    scheduler.add(1, prompt(4), 4)
    scheduler.add(2, prompt(4, 10), 4)
    scheduler.add(3, prompt(4, 20), 4, gated=True)
    scheduler.reserve(4, prompt(4, 30), 4)
    batch = scheduler.schedule()
    scheduler.abort(2)
    del batch, scheduler
    assert pool.num_free == 16
    assert (live("requests"), live("grants")) == (0, 0)


def test_tables_follow_when_rows_move_and_widths_change() -> None:
    scheduler = make(num_blocks=32, budget=64)
    for id, length in ((1, 3), (2, 20), (3, 9)):
        scheduler.add(id, prompt(length, id * 30), 30)
    for round in range(12):
        batch = scheduler.schedule()
        assert batch is not None
        for row, id in enumerate(batch.ids.tolist()):
            table = scheduler.block_table(id).tolist()
            assert batch.block_tables[row].tolist() == table + [0] * (batch.block_tables.shape[1] - len(table))
        scheduler.commit(np.zeros(batch.num_samples, np.int32))
        if round == 3:
            scheduler.abort(2)
        if round == 6:
            scheduler.add(4, prompt(30, 200), 30, priority=-1)
    for id in (1, 3, 4):
        scheduler.abort(id)


# --- one step behind


def pipelined(**options: Any) -> Scheduler:
    return make(depth=2, **options)


def schedule(scheduler: Scheduler) -> Batch:
    batch = scheduler.schedule()
    assert batch is not None
    scheduler.check()
    return batch


def commit(scheduler: Scheduler, *tokens: int) -> list[tuple[int, int, int]]:
    """(id, index, finish) of each row."""
    done = scheduler.commit(ids(*tokens))
    scheduler.check()
    return list(zip(done.ids.tolist(), done.indices.tolist(), done.finish.tolist(), strict=True))


def test_a_step_follows_on_samples_that_are_not_known_yet() -> None:
    scheduler = pipelined()
    scheduler.add(1, prompt(6), 4)
    scheduler.add(2, prompt(3, 50), 4)
    first = schedule(scheduler)
    assert first.token_sources.tolist() == [-1] * 9
    second = schedule(scheduler)
    assert scheduler.in_flight == 2
    assert (second.token_ids.tolist(), second.token_sources.tolist()) == ([0, 0], [0, 1])
    assert (second.positions.tolist(), second.context_lens.tolist()) == ([6, 3], [7, 4])
    assert second.sample_positions.tolist() == [7, 4]
    assert [part.tolist() for part in second.history(0)] == [prompt(6).tolist(), []]
    with pytest.raises(errors.InvalidInput, match="step 0 is not committed"):
        scheduler.schedule()
    assert first.token_ids.tolist() == [*range(6), 50, 51, 52], "the first step's arrays stay"
    assert commit(scheduler, 30, 31) == [(1, 0, 0), (2, 0, 0)]
    assert [part.tolist() for part in second.history(0)] == [prompt(6).tolist(), [30]]
    third = schedule(scheduler)
    assert (third.token_sources.tolist(), third.positions.tolist()) == ([0, 1], [7, 4])
    assert second.positions.tolist() == [6, 3]
    assert commit(scheduler, 32, 33) == [(1, 1, 0), (2, 1, 0)]
    assert commit(scheduler, 34, 35) == [(1, 2, 0), (2, 2, 0)]
    assert scheduler.in_flight == 0
    fourth = schedule(scheduler)
    assert (fourth.token_ids.tolist(), fourth.token_sources.tolist()) == ([34, 35], [-1, -1])
    assert commit(scheduler, 36, 37) == [(1, 3, 2), (2, 3, 2)]


def test_a_row_of_the_step_before_is_named_whatever_its_place() -> None:
    scheduler = pipelined(budget=8)
    scheduler.add(1, prompt(3), 9)
    scheduler.add(2, prompt(7, 20), 9)
    assert rows(schedule(scheduler)) == {1: 3, 2: 5}
    scheduler.add(3, prompt(1, 90), 9)
    second = schedule(scheduler)
    assert rows(second) == {1: 1, 2: 2, 3: 1}
    assert second.token_sources.tolist() == [0, -1, -1, -1]
    commit(scheduler, 5)
    assert scheduler.abort(1)
    third = schedule(scheduler)
    assert rows(third) == {2: 1, 3: 1}
    assert third.token_sources.tolist() == [1, 2]
    assert commit(scheduler, 6, 7, 8) == [(1, 1, 3), (2, 0, 0), (3, 0, 0)]
    commit(scheduler, 9, 9)
    for id in (2, 3):
        assert scheduler.abort(id)


def test_nothing_is_scheduled_beyond_an_end_that_is_foreseen() -> None:
    for options in ({}, {"max_model_len": 6}):
        scheduler = pipelined(**options)
        scheduler.add(1, prompt(4), 99 if options else 2)
        schedule(scheduler)
        schedule(scheduler)
        assert commit(scheduler, 5) == [(1, 0, 0)]
        assert scheduler.has_work()
        assert scheduler.schedule() is None
        assert commit(scheduler, 5) == [(1, 1, 2)]
        assert not scheduler.has_work()
        assert scheduler.stats()["free_blocks"] == 16


def test_a_step_beyond_a_stop_token_is_void() -> None:
    pool = BlockPool(16, 4)
    scheduler = Scheduler(pool, 32, 8, 64, depth=2)
    scheduler.add(1, prompt(7), 9, stop_ids=[5])
    schedule(scheduler)
    schedule(scheduler)
    assert commit(scheduler, 5) == [(1, 0, 1)]
    assert not scheduler.has_work()
    assert scheduler.in_flight == 1
    assert pool.num_free == 14, "the void step still writes there"
    assert scheduler.schedule() is None
    assert not scheduler.abort(1)
    assert commit(scheduler, 6) == [(1, 1, 3)]
    assert pool.num_free == 16
    assert pool.num_cached == 1, "the block that the void step filled is not cached"
    assert scheduler.stats()["steps"] == 2


def test_blocks_of_an_aborted_request_wait_for_every_step_that_touches_them() -> None:
    scheduler = pipelined(num_blocks=4, watermark=0.0)
    scheduler.add(1, prompt(12), 2)
    schedule(scheduler)
    schedule(scheduler)
    assert scheduler.abort(1)
    for token in (7, 8):
        assert scheduler.stats()["free_blocks"] == 0
        assert scheduler.reserve(2, prompt(4, 90), 2) is None
        assert commit(scheduler, token)[0][2] == 3
    assert scheduler.stats()["free_blocks"] == 4


def test_held_blocks_released_under_a_void_step_are_free_after_it() -> None:
    scheduler = pipelined()
    scheduler.add(1, prompt(6), 4, stop_ids=[5], hold=True)
    schedule(scheduler)
    schedule(scheduler)
    assert commit(scheduler, 5) == [(1, 0, 1)]
    assert (scheduler.num_computed(1), scheduler.stats()["held"]) == (6, 1)
    scheduler.release(1)
    scheduler.check()
    assert scheduler.stats()["free_blocks"] == 14
    assert commit(scheduler, 6) == [(1, 1, 3)]
    assert scheduler.stats()["free_blocks"] == 16


def test_a_victim_sits_a_step_out_and_is_preempted_with_its_tokens_known() -> None:
    scheduler = pipelined(num_blocks=5, watermark=0.0)
    scheduler.add(1, prompt(7), 8)
    scheduler.add(2, prompt(7, 50), 8)
    flight: list[Batch] = []
    seen: list[tuple[int, int]] = []
    told: list[tuple[list[int], bool]] = []  # what a batch preempts, and whether it was in the step under way
    sat_out = 0
    while scheduler.has_work():
        while scheduler.in_flight < 2 and (batch := scheduler.schedule()) is not None:
            scheduler.check()
            under_way = set(flight[-1].ids.tolist()) if flight else set()
            told += [([id], id in under_way) for id in batch.preempted.tolist()]
            sat_out += 2 in under_way and 2 not in batch.ids
            flight.append(batch)
        tokens = [3] * flight.pop(0).num_samples
        seen += [(id, index) for id, index, _ in commit(scheduler, *tokens)]
    assert told == [([2], False)]
    assert sat_out >= 1
    assert scheduler.stats()["preemptions"] == 1
    assert sorted(seen) == [(id, index) for id in (1, 2) for index in range(8)]
    assert scheduler.stats()["free_blocks"] == 5


@pytest.mark.parametrize("depth", [0, 3])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(errors.InvalidInput, match=f"depth must be 1 or 2, got {depth}"):
        make(depth=depth)


@pytest.mark.parametrize(
    ("budget", "seqs", "length", "options"),
    [(0, 1, 1, {}), (1, 0, 1, {}), (1, 1, 0, {}), (1, 1, 1, {"watermark": 1.5}), (1, 1, 1, {"max_reserved": -0.1})],
)
def test_impossible_schedulers_are_refused(budget: int, seqs: int, length: int, options: dict[str, float]) -> None:
    with pytest.raises(errors.InvalidInput, match="must be"):
        Scheduler(BlockPool(4, 4), budget, seqs, length, **options)
