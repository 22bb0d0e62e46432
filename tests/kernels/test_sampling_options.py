"""Token counts on the device follow the scheduler's requests through preemption, two steps under way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_device import DEVICE  # first, so that the kernels are interpreted where there is no device

core = pytest.importorskip("nano._core")
if not hasattr(core, "sched"):
    pytest.skip("the native code is not built", allow_module_level=True)

from nano.engine.sampling_options import TokenCounts  # noqa: E402

VOCAB = 50


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), blocks=st.integers(8, 40), depth=st.integers(1, 2))
def test_counts_are_those_of_the_history(seed: int, blocks: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    pool = core.kv.BlockPool(blocks, 4)
    scheduler = core.sched.Scheduler(pool, 24, 12, 24, 0.0, depth=depth)
    histories: dict[int, list[int]] = {}
    prompts: dict[int, int] = {}
    for id in range(1, 13):
        tokens = rng.integers(0, VOCAB, rng.integers(1, 9)).astype(np.int32)
        penalty = float(rng.choice([0.0, 0.5]))
        scheduler.add(id, tokens, int(rng.integers(1, 12)), frequency_penalty=penalty)
        histories[id], prompts[id] = tokens.tolist(), len(tokens)
    counts = TokenCounts(VOCAB, DEVICE)
    under_way: list[tuple[list[int], np.ndarray]] = []
    slots_used = 0
    for _ in range(400):
        batch = scheduler.schedule() if len(under_way) < depth else None
        if batch is not None:
            rows = batch.num_samples
            ids = batch.ids[batch.sample_seqs].tolist()
            tokens = rng.integers(0, VOCAB, rows).astype(np.int32)
            slots = counts.slots(batch, rows + 2)
            assert (np.flatnonzero(slots >= 0) == np.sort(batch.penalized)).all()
            taken = slots[slots >= 0]
            assert len(set(taken.tolist())) == len(taken)
            slots_used = max(slots_used, len(taken))
            for row in batch.penalized.tolist():
                # What is still under way was sampled by the step before: the device has counted it.
                pending = [t for step, drawn in under_way for id, t in zip(step, drawn, strict=True) if id == ids[row]]
                history = (histories[ids[row]] + pending)[: batch.sample_positions[row]]
                held = counts.table[slots[row]].cpu().numpy()
                outputs = np.bincount(history[prompts[ids[row]] :], minlength=VOCAB)
                np.testing.assert_array_equal(held & 0x7FFF, outputs)
                assert set(np.flatnonzero(held < 0).tolist()) == set(history[: prompts[ids[row]]])
                counts.table[slots[row], tokens[row]] += 1  # the sampler's part
            under_way.append((ids, tokens))
        elif under_way:
            _, tokens = under_way.pop(0)
            done = scheduler.commit(tokens)
            for id, token, finish in zip(done.ids.tolist(), done.tokens.tolist(), done.finish.tolist(), strict=True):
                if finish != 3:
                    histories[id].append(token)
        else:
            break
    assert not scheduler.has_work()
    assert counts.table.shape[0] <= max(8, 4 * slots_used)
