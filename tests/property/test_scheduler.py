"""The scheduler drives a toy model whose KV cache is simulated exactly.

A token's KV is a hash of the token and of the KV before it, read through the block table, and the next token is a
function of the last KV: a wrong slot, table, position, prefix hit or a block reused too early changes the output.
Steps are executed at any time between their schedule and their commit, on the arrays as they are then.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nano import errors
from nano._core import counters
from nano._core.kv import BlockPool
from nano._core.sched import Batch, Scheduler

VOCABULARY = 5
STOP = 0


def root(salt: int) -> int:
    return hash((7919, salt))


def kv(before: int, token: int) -> int:
    return hash((before, token))


def states(salt: int, tokens: list[int]) -> list[int]:
    """The KV of each token."""
    state, out = root(salt), []
    for token in tokens:
        state = kv(state, token)
        out.append(state)
    return out


def next_token(state: int) -> int:
    return (state >> 7) % VOCABULARY


@dataclass
class Spec:
    id: int
    prompt: list[int]
    max_tokens: int
    min_tokens: int = 0
    stop: bool = False
    priority: int = 0
    gated: bool = False
    hold: bool = False
    salt: int = 0

    def keywords(self) -> dict[str, object]:
        return {
            "min_tokens": self.min_tokens,
            "stop_ids": [STOP] if self.stop else [],
            "priority": self.priority,
            "hold": self.hold,
            "salt": self.salt,
            "seed": self.id,
            "temperature": self.id % 3,
        }

    def answer(self, max_model_len: int) -> tuple[list[int], int]:
        """Outputs and finish code, one request at a time and without a cache."""
        tokens = list(self.prompt)
        while True:
            token = next_token(states(self.salt, tokens)[-1])
            tokens.append(token)
            outputs = tokens[len(self.prompt) :]
            if self.stop and token == STOP and len(outputs) >= self.min_tokens:
                return outputs, 1
            if len(outputs) == self.max_tokens or len(tokens) == max_model_len:
                return outputs, 2


@dataclass
class Job:
    spec: Spec
    answer: list[int]
    finish: int
    state: str  # gated, queued, reserved, held
    outputs: list[int] = field(default_factory=list)
    cached: int = -1
    void: list[int] = field(default_factory=list)  # sampled for it after its end

    def tokens(self) -> list[int]:
        return self.spec.prompt + self.outputs


@dataclass(frozen=True)
class Setup:
    num_blocks: int
    block_size: int
    budget: int
    max_num_seqs: int
    max_model_len: int
    watermark: float = 0.0
    max_reserved: float = 0.3
    prefix_caching: bool = True
    hash_bits: int = 64
    depth: int = 1


@dataclass
class Step:
    """A step under way."""

    batch: Batch
    jobs: list[Job]  # one a row
    before: Step | None
    samples: list[int] | None = None  # once it was executed

    def blocks(self, row: int, size: int) -> set[int]:
        """What a row touches."""
        return set(self.batch.block_tables[row, : -(-int(self.batch.context_lens[row]) // size)].tolist())


class ToyEngine:
    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.counters_before = counters()
        self.pool = BlockPool(setup.num_blocks, setup.block_size, setup.prefix_caching, setup.hash_bits)
        self.scheduler = Scheduler(
            self.pool,
            setup.budget,
            setup.max_num_seqs,
            setup.max_model_len,
            watermark=setup.watermark,
            max_reserved=setup.max_reserved,
            depth=setup.depth,
        )
        self.cache: list[int | None] = [None] * (setup.num_blocks * setup.block_size)
        self.jobs: dict[int, Job] = {}
        self.flight: deque[Step] = deque()
        self.voids = 0
        self.finished = 0

    def add(self, spec: Spec) -> bool:
        size, watermark = self.setup.block_size, int(self.setup.watermark * self.setup.num_blocks)
        limit = min(len(spec.prompt) + spec.max_tokens, self.setup.max_model_len)
        fits = -(-limit // size) <= self.setup.num_blocks - watermark
        prompt = np.array(spec.prompt, np.int32)
        if not fits or len(spec.prompt) >= self.setup.max_model_len or spec.id in self.jobs:
            with pytest.raises(errors.InvalidInput):
                self.scheduler.add(spec.id, prompt, spec.max_tokens, gated=spec.gated, **spec.keywords())
            return False
        self.scheduler.add(spec.id, prompt, spec.max_tokens, gated=spec.gated, **spec.keywords())
        self.jobs[spec.id] = Job(
            spec, *spec.answer(self.setup.max_model_len), state="gated" if spec.gated else "queued"
        )
        return True

    def reserve(self, spec: Spec) -> bool:
        prompt = np.array(spec.prompt, np.int32)
        try:
            granted = self.scheduler.reserve(spec.id, prompt, spec.max_tokens, **spec.keywords())
        except errors.InvalidInput:
            return False
        if granted is None:
            return False
        first, blocks = granted
        self.jobs[spec.id] = Job(spec, *spec.answer(self.setup.max_model_len), state="reserved")
        size = self.setup.block_size
        assert first * size < len(spec.prompt)
        assert first + len(blocks) == -(-len(spec.prompt) // size)
        assert self.scheduler.block_table(spec.id)[first:].tolist() == blocks.tolist()
        assert not set(blocks.tolist()) & self.touched(), "granted blocks of a step under way"
        for position, state in list(enumerate(states(spec.salt, spec.prompt)))[first * size :]:
            self.cache[blocks[position // size - first] * size + position % size] = state
        return True

    def activate(self, id: int) -> None:
        job = self.jobs[id]
        self.verify_cache(id, len(job.spec.prompt))
        finish = self.scheduler.activate(id, job.answer[0])
        job.state = "queued"
        self.emitted(job, 0, job.answer[0], finish)

    def recompute(self, id: int) -> None:
        self.scheduler.recompute(id)
        self.jobs[id].state = "queued"

    def open(self) -> None:
        order = sorted((job for job in self.jobs.values() if job.state == "gated"), key=lambda job: job.spec.priority)
        ids = [job.spec.id for job in order]  # the dict keeps arrival, sorting is stable
        assert self.scheduler.next_gated(2).tolist() == ids[:2]
        if ids:
            self.scheduler.open(ids[0])
            self.jobs[ids[0]].state = "queued"

    def abort(self, id: int) -> None:
        assert self.scheduler.abort(id)
        assert not self.scheduler.abort(id)
        del self.jobs[id]

    def release(self, id: int) -> None:
        self.verify_cache(id, len(self.jobs[id].tokens()) - 1)
        self.scheduler.release(id)
        del self.jobs[id]

    def touched(self, but: Job | None = None) -> set[int]:
        """Blocks that steps under way touch for any job but that one."""
        return {
            block
            for step in self.flight
            for row, job in enumerate(step.jobs)
            if job is not but
            for block in step.blocks(row, self.setup.block_size)
        }

    def pending(self, job: Job) -> int:
        return sum(step.jobs[seq] is job for step in self.flight for seq in step.batch.sample_seqs.tolist())

    def schedule(self) -> bool:
        """False when nothing can run."""
        batch = self.scheduler.schedule()
        if batch is None:
            stats = self.scheduler.stats()
            assert self.flight or not self.scheduler.has_work() or stats["reserved"] + stats["held"] > 0, "stuck"
            return False
        step = Step(batch, [self.jobs[id] for id in batch.ids.tolist()], self.flight[-1] if self.flight else None)
        self.check_batch(step)
        self.flight.append(step)
        assert self.scheduler.in_flight == len(self.flight)
        return True

    def check_batch(self, step: Step) -> None:
        batch, size, rows = step.batch, self.setup.block_size, step.batch.ids.tolist()
        queries = np.diff(batch.cu_query)
        assert len(set(rows)) == batch.num_seqs <= self.setup.max_num_seqs
        assert batch.cu_query[0] == 0
        assert batch.cu_query[-1] == batch.num_tokens == queries.sum() <= self.setup.budget
        assert (queries > 0).all()
        widths = [-(-int(n) // size) for n in batch.context_lens]
        assert batch.block_tables.shape == (batch.num_seqs, max(widths))
        for row, (id, job) in enumerate(zip(rows, step.jobs, strict=True)):
            table = batch.block_tables[row]
            assert table[: widths[row]].tolist() == self.scheduler.block_table(id).tolist()
            assert not table[widths[row] :].any()
            under_way = sum(
                int(np.diff(earlier.batch.cu_query)[at])
                for earlier in self.flight
                for at, other in enumerate(earlier.jobs)
                if other is job
            )
            begin, end = batch.cu_query[row : row + 2]
            assert self.scheduler.num_computed(id) + under_way == batch.context_lens[row] - queries[row]
            assert not set((batch.slots[begin:end] // size).tolist()) & self.touched(but=job), "written under a step"
            for at in range(begin, end):
                position, source = int(batch.positions[at]), int(batch.token_sources[at])
                if position < len(job.tokens()):
                    assert (source, int(batch.token_ids[at])) == (-1, job.tokens()[position])
                else:
                    before = self.flight[-1]
                    assert before.jobs[before.batch.sample_seqs[source]] is job
                    assert position == before.batch.sample_positions[source]
            assert batch.context_lens[row] < min(len(job.spec.prompt) + job.spec.max_tokens, self.setup.max_model_len)
        sampling = [
            seq for seq, job in enumerate(step.jobs) if batch.context_lens[seq] == len(job.tokens()) + self.pending(job)
        ]
        assert batch.sample_seqs.tolist() == sampling
        assert batch.sample_rows.tolist() == [batch.cu_query[seq + 1] - 1 for seq in sampling]
        assert batch.sample_positions.tolist() == [batch.context_lens[seq] for seq in sampling]
        assert batch.seeds.tolist() == [rows[seq] for seq in sampling]
        assert batch.temperature.tolist() == [rows[seq] % 3 for seq in sampling]

    def execute(self) -> None:
        """The forward pass of the oldest step that has not had it."""
        step = next((step for step in self.flight if step.samples is None), None)
        if step is None:
            return
        batch, size = step.batch, self.setup.block_size
        last: list[int] = []
        for row, job in enumerate(step.jobs):
            table = batch.block_tables[row]
            state = 0
            for at in range(batch.cu_query[row], batch.cu_query[row + 1]):
                token, position, slot = int(batch.token_ids[at]), int(batch.positions[at]), int(batch.slots[at])
                source = int(batch.token_sources[at])
                if source >= 0:
                    assert step.before is not None
                    assert step.before.samples is not None
                    token = step.before.samples[source]
                assert slot == table[position // size] * size + position % size
                before = root(job.spec.salt)
                if position > 0:
                    read = self.cache[table[(position - 1) // size] * size + (position - 1) % size]
                    assert read is not None
                    before = read
                state = kv(before, token)
                self.cache[slot] = state
            last.append(state)
        step.samples = [next_token(last[seq]) for seq in batch.sample_seqs]
        step.before = None

    def run(self) -> None:
        """The commit of the oldest step under way."""
        step = self.flight[0]
        if step.samples is None:
            self.execute()
        tokens, batch, size = step.samples, step.batch, self.setup.block_size
        assert tokens is not None
        for row, job in enumerate(step.jobs):  # of those that ended as well
            count, table = int(batch.context_lens[row]), batch.block_tables[row]
            known = job.tokens() + job.void
            expected = states(job.spec.salt, known[:count])
            assert [self.cache[table[i // size] * size + i % size] for i in range(count)] == expected
        jobs = [step.jobs[seq] for seq in batch.sample_seqs.tolist()]
        committed = self.scheduler.commit(np.array(tokens, np.int32))
        self.flight.popleft()
        assert committed.ids.tolist() == [job.spec.id for job in jobs]
        assert committed.tokens.tolist() == tokens
        columns = zip(
            jobs,
            committed.indices.tolist(),
            committed.tokens.tolist(),
            committed.finish.tolist(),
            committed.cached.tolist(),
            strict=True,
        )
        for job, index, token, finish, cached in columns:
            if self.jobs.get(job.spec.id) is not job or job.state == "held":
                assert finish == 3
                job.void.append(token)
                self.voids += len(job.outputs) == len(job.answer)
                continue
            assert 0 <= cached < len(job.spec.prompt) + len(job.outputs)
            assert cached % size == 0
            assert job.cached in (-1, cached)
            job.cached = cached
            self.emitted(job, index, token, finish)

    def emitted(self, job: Job, index: int, token: int, finish: int) -> None:
        assert index == len(job.outputs)
        job.outputs.append(token)
        assert job.outputs == job.answer[: len(job.outputs)]
        assert finish == (job.finish if len(job.outputs) == len(job.answer) else 0)
        if not finish:
            return
        self.finished += 1
        if job.spec.hold:
            job.state = "held"
            assert self.scheduler.num_computed(job.spec.id) == len(job.tokens()) - 1
        else:
            del self.jobs[job.spec.id]

    def verify_cache(self, id: int, count: int) -> None:
        """The first `count` tokens of the request are in the cache, where its table says."""
        job, size = self.jobs[id], self.setup.block_size
        table = self.scheduler.block_table(id)
        expected = states(job.spec.salt, job.tokens()[:count])
        assert [self.cache[table[i // size] * size + i % size] for i in range(count)] == expected

    def advance(self) -> None:
        """As an engine's loop does: as many steps under way as may be, then the oldest one's commit."""
        while len(self.flight) < self.setup.depth and self.schedule():
            pass
        if self.flight:
            self.run()

    def of(self, *wanted: str) -> list[int]:
        return [id for id, job in self.jobs.items() if job.state in wanted]

    def drain(self) -> None:
        """Everything left ends, in bounded steps, and nothing is held afterwards."""
        bound = 50 + sum(4 * len(job.spec.prompt) + 4 * len(job.answer) for job in self.jobs.values()) * 4
        for _ in range(bound):
            for id in self.of("held"):
                self.release(id)
            for id in self.of("reserved"):
                self.activate(id)
            self.open()
            self.advance()
            if not self.jobs:
                break
            self.check()
        while self.flight:
            self.run()
        assert not self.jobs, f"unfinished after {bound} steps: {self.jobs}"
        assert not self.scheduler.has_work()
        assert self.pool.num_free == self.pool.num_blocks
        self.check()

    def check(self) -> None:
        self.scheduler.check()
        now = self.scheduler.stats()
        assert now["reserved"] == len(self.of("reserved"))
        assert now["held"] == len(self.of("held"))
        assert now["gated"] == len(self.of("gated"))
        assert now["running"] + now["waiting"] == len(self.of("queued"))
        live, before = counters(), self.counters_before
        assert live["requests"] - before["requests"] == len(self.jobs)
        assert live["grants"] - before["grants"] == now["reserved"]
        assert live["blocks"] - before["blocks"] == self.pool.num_blocks - self.pool.num_free


STEMS = [[1, 2, 3, 4, 1, 2, 3, 4, 2, 2], [1, 2, 3, 4, 4, 4, 4, 4], [3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]]
PROMPTS = st.builds(
    lambda stem, cut, rest: (stem[:cut] + rest) or [1],
    st.sampled_from(STEMS),
    st.integers(0, 12),
    st.lists(st.integers(0, VOCABULARY - 1), max_size=6),
)
SPECS = st.builds(
    Spec,
    id=st.integers(0, 30),
    prompt=PROMPTS,
    max_tokens=st.integers(1, 12),
    min_tokens=st.integers(0, 6),
    stop=st.booleans(),
    priority=st.sampled_from([0, 0, 0, -1, 1]),
    gated=st.sampled_from([False, False, True]),
    hold=st.sampled_from([False, False, True]),
    salt=st.sampled_from([0, 0, 0, 1]),
)
SETUPS = st.builds(
    Setup,
    num_blocks=st.integers(4, 24),
    block_size=st.sampled_from([1, 2, 4]),
    budget=st.integers(1, 16),
    max_num_seqs=st.integers(1, 6),
    max_model_len=st.integers(4, 40),
    watermark=st.sampled_from([0.0, 0.1, 0.25]),
    max_reserved=st.sampled_from([0.0, 0.3, 0.8]),
    prefix_caching=st.sampled_from([True, True, False]),
    hash_bits=st.sampled_from([64, 3, 0]),
    depth=st.sampled_from([1, 2, 2]),
)


class SchedulerMachine(RuleBasedStateMachine):
    engine: ToyEngine | None = None

    @initialize(setup=SETUPS)
    def start(self, setup: Setup) -> None:
        self.engine = ToyEngine(setup)

    @rule(spec=SPECS)
    def add(self, spec: Spec) -> None:
        self.engine.add(spec)

    @rule(spec=SPECS)
    def reserve(self, spec: Spec) -> None:
        self.engine.reserve(spec)

    @rule(which=st.integers(0, 1000), activate=st.sampled_from([True, True, False]))
    @precondition(lambda self: self.engine.of("reserved"))
    def end_reservation(self, which: int, activate: bool) -> None:
        ids = self.engine.of("reserved")
        (self.engine.activate if activate else self.engine.recompute)(ids[which % len(ids)])

    @rule()
    def open(self) -> None:
        self.engine.open()

    @rule(which=st.integers(0, 1000))
    @precondition(lambda self: self.engine.jobs)
    def abort(self, which: int) -> None:
        ids = list(self.engine.jobs)
        self.engine.abort(ids[which % len(ids)])

    @rule(which=st.integers(0, 1000))
    @precondition(lambda self: self.engine.of("held"))
    def release(self, which: int) -> None:
        ids = self.engine.of("held")
        self.engine.release(ids[which % len(ids)])

    @rule()
    def forget_prefixes(self) -> None:
        self.engine.pool.clear()

    @rule()
    @precondition(lambda self: len(self.engine.flight) < self.engine.setup.depth)
    def schedule(self) -> None:
        self.engine.schedule()

    @rule()
    def execute(self) -> None:
        self.engine.execute()

    @rule()
    @precondition(lambda self: self.engine.flight)
    def run(self) -> None:
        self.engine.run()

    @rule(steps=st.integers(1, 8))
    def run_steps(self, steps: int) -> None:
        for _ in range(steps):
            self.engine.advance()

    @invariant()
    def holds(self) -> None:
        if self.engine is not None:
            self.engine.check()

    def teardown(self) -> None:
        if self.engine is not None:
            self.engine.drain()
            self.engine = None


SchedulerMachine.TestCase.settings = settings(
    max_examples=250, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestScheduler = SchedulerMachine.TestCase


def workloads(count: int) -> Iterator[tuple[Setup, list[Spec], random.Random]]:
    for seed in range(count):
        draw = random.Random(seed)
        setup = Setup(
            num_blocks=draw.randint(10, 20),
            block_size=draw.choice([1, 2, 4]),
            budget=draw.randint(2, 12),
            max_num_seqs=draw.randint(2, 6),
            max_model_len=draw.randint(16, 40),
            hash_bits=draw.choice([64, 2]),
        )
        specs = [
            Spec(
                id,
                (draw.choice(STEMS)[: draw.randint(0, 12)] + draw.choices(range(VOCABULARY), k=draw.randint(0, 4)))
                or [1],
                draw.randint(1, 14),
                stop=draw.random() < 0.3,
                priority=draw.choice([0, 0, 1]),
                hold=draw.random() < 0.2,
            )
            for id in range(12)
        ]
        yield setup, specs, draw


@pytest.mark.parametrize("depth", [1, 2])
def test_random_workloads_meet_every_hazard_and_answer_as_if_alone(depth: int) -> None:
    met: Counter[str] = Counter()
    finished = 0
    for setup, specs, draw in workloads(300):
        engine = ToyEngine(replace(setup, depth=depth))
        for spec in specs:
            if draw.random() < 0.2:
                met["reservations"] += engine.reserve(spec)
            else:
                engine.add(spec)
            engine.advance()
            engine.check()
        engine.drain()
        met.update({key: value for key, value in engine.scheduler.stats().items() if value})
        met["voids"] += engine.voids
        finished += engine.finished
    assert finished > 1500
    for hazard in ("preemptions", "prefix_hit_tokens", "split_chunks", "reservations"):
        assert met[hazard] >= 100, met
    assert (met["voids"] >= 100) == (depth == 2), met


def test_steps_one_behind_are_those_of_strict_alternation_where_nothing_depends_on_when() -> None:
    """Requests one after the other, nothing evicted: the same tokens, finishes and cached counts."""
    for setup, specs, _ in workloads(100):
        setup = replace(setup, num_blocks=500)
        runs = []
        for depth in (1, 2):
            engine = ToyEngine(replace(setup, depth=depth))
            jobs = []
            for spec in specs:
                if engine.add(spec):
                    jobs.append(engine.jobs[spec.id])
                    engine.drain()
            runs.append([(job.outputs, job.finish, job.cached) for job in jobs])
        assert runs[0] == runs[1]


def test_strict_alternation_gives_the_same_batches_at_either_depth() -> None:
    for setup, specs, _ in workloads(100):
        runs = []
        for depth in (1, 2):
            engine = ToyEngine(replace(setup, depth=depth))
            trace = []
            for spec in specs * 3:
                if spec.id not in engine.jobs:
                    engine.add(spec)
                if engine.schedule():
                    batch = engine.flight[0].batch
                    arrays = (batch.ids, batch.token_ids, batch.slots, batch.block_tables, batch.preempted)
                    trace.append([array.tolist() for array in arrays])
                    engine.run()
            engine.drain()
            runs.append(trace)
        assert runs[0] == runs[1]
