"""Whatever a script does to the way between two endpoints: every transfer ends in time, what counts as landed has the
right bytes, nothing is written to blocks that are in use again, and other peers notice nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from fault_relay import Relay, Rule, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

from nano.errors import Closed, DeadlineExceeded, InvalidInput, NanoError, PeerLost, Refused
from nano.transfer import Endpoint, Peer, Region, Transfer

BLOCK = 4096
PIECES = 80  # two chunks of shared memory
OPS = 6
SLOT = 2 * BLOCK * PIECES  # of an operation: its blocks and as many guards between them
TIMEOUT = 0.4  # of an operation
LATE = 3.0  # how much later than its deadline a transfer may end on a busy machine
GUARD, FREED = 0xAA, 0xBB
CODES = (DeadlineExceeded, PeerLost, Refused, Closed)


def paths() -> list[str]:
    """The transports of this build that are more than the socket and that two endpoints of this host can use for its
    memory: not cuda_ipc, which is for GPU memory."""
    with Endpoint("a") as a, Endpoint("b") as b:
        return [name for name, why in a.connect(b.descriptor()).transports[:-1] if not why and name != "cuda_ipc"]


@dataclass(frozen=True)
class Move:
    """One operation: a tagged write, an untagged one, or a read."""

    kind: str
    pieces: int


moves = st.lists(
    st.builds(Move, st.sampled_from(["tagged", "write", "read"]), st.sampled_from([1, 3, PIECES])),
    min_size=1, max_size=OPS,
)  # fmt: skip


def places(slot: int, pieces: int) -> npt.NDArray[np.int64]:
    """Every other block of the slot: those between are guards."""
    return slot * SLOT + np.arange(pieces, dtype=np.int64) * 2 * BLOCK


def pattern(slot: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(slot).integers(1, 100, BLOCK * PIECES, dtype=np.uint8)


class World:
    """A sink, a peer of it that keeps moving bytes, and the operations of a source that comes by a broken way."""

    def __init__(self, transport: str) -> None:
        self.sink = Endpoint("sink", transports=(transport,))
        self.pool = self.sink.allocate(OPS * SLOT, "kv")
        self.pool.array[:] = GUARD
        self.safe = self.sink.allocate(BLOCK, "safe")
        self.witness = Endpoint("witness", transports=(transport,))
        self.proof = self.witness.allocate(BLOCK, "proof")
        self.friend = self.witness.connect(self.sink.descriptor())

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.witness.close()
        self.sink.close()

    def others_are_well(self) -> None:
        for value in (1, 2):
            self.proof.array[:] = value
            self.friend.write(self.proof, "safe", [0], [0], BLOCK).wait(5)
            assert (self.safe.array == value).all()

    def slot(self, at: int) -> npt.NDArray[np.uint8]:
        """[PIECES, 2, BLOCK]: blocks, and guards behind them."""
        return self.pool.array[at * SLOT : (at + 1) * SLOT].reshape(PIECES, 2, BLOCK)

    def run(self, region: Region, peer: Peer, wanted: list[Move], honest: bool = True, own: bool = True) -> None:
        """Posts them all and checks the promises. honest: the script changes no frame's meaning, so that success
        means that the bytes are right, too. own: nor where the source itself says that its bytes lie."""
        for at, move in enumerate(wanted):
            if move.kind == "read":
                self.slot(at)[:, 0] = pattern(at).reshape(PIECES, BLOCK)
            else:
                region.array[at * BLOCK * PIECES :][: BLOCK * PIECES] = pattern(at)
                if move.kind == "tagged":
                    self.sink.expect(at + 1, self.pool, places(at, move.pieces), BLOCK)
        began = time.monotonic()
        posted: list[Transfer | NanoError] = []
        for at, move in enumerate(wanted):
            here = at * BLOCK * PIECES + np.arange(move.pieces, dtype=np.int64) * BLOCK
            there = places(at, move.pieces)
            try:
                if move.kind == "read":
                    posted.append(peer.read(region, "kv", here, there, BLOCK, timeout=TIMEOUT))
                else:
                    tag = at + 1 if move.kind == "tagged" else 0
                    posted.append(peer.write(region, "kv", here, there, BLOCK, tag, timeout=TIMEOUT))
            except (PeerLost, Closed) as error:
                posted.append(error)
        for at, (move, transfer) in enumerate(zip(wanted, posted, strict=True)):
            self.settled(at, move, transfer, region, began, honest, own)
        # Tags that ended badly are forgotten, and their blocks go to somebody else: nothing may come late.
        reused = []
        for at, (move, transfer) in enumerate(zip(wanted, posted, strict=True)):
            if move.kind == "tagged":
                self.sink.forget(at + 1)
                if not isinstance(transfer, Transfer) or transfer.error is not None:
                    self.slot(at)[:, 0] = FREED
                    reused.append(at)
        self.others_are_well()
        # What the script still holds back comes within that time.
        late = 0.15 if reused else 0.0
        assert not wait_until(lambda: any((self.slot(at)[:, 0] != FREED).any() for at in reused), late)
        for at in range(OPS):
            assert (self.slot(at)[:, 1] == GUARD).all()

    def settled(
        self, at: int, move: Move, transfer: Transfer | NanoError, region: Region, began: float, honest: bool, own: bool
    ) -> None:
        """Waits for the transfer's end; then its source is used for something else, as its owner may."""
        error: NanoError | None
        if isinstance(transfer, Transfer):
            try:
                transfer.wait(TIMEOUT + LATE - (time.monotonic() - began))
            except NanoError:
                assert transfer.done(), "it did not end within its deadline"
            error = transfer.error
        else:
            error = transfer
        assert error is None or isinstance(error, CODES)
        assert error is None or "sink" in str(error)
        local = region.array[at * BLOCK * PIECES :][: move.pieces * BLOCK]
        expected = pattern(at)[: move.pieces * BLOCK].copy()
        if move.kind != "read":
            local[:] = 0xEE
        elif error is None and honest:
            assert np.array_equal(local, expected)
        blocks = self.slot(at)[: move.pieces, 0]
        if move.kind == "tagged":
            missing = set(self.sink.missing(at + 1).tolist())
            landed = [i for i in range(move.pieces) if i not in missing]
            assert not own or np.array_equal(blocks[landed], expected.reshape(-1, BLOCK)[landed])
            if honest:
                assert error is not None or not missing
        elif move.kind == "write" and error is None and honest:
            assert np.array_equal(blocks.reshape(-1), expected)


@contextlib.contextmanager
def broken_source(
    world: World, transport: str, script: str, patience: float = 10.0
) -> Iterator[tuple[Region, Peer | None]]:
    """A source whose path follows the script: its region, and no peer when not even the handshake got through."""
    with Endpoint("source", transports=(transport,), _faults=script) as source:
        region = source.allocate(OPS * BLOCK * PIECES, "source")  # before, so that the peer knows it
        began = time.monotonic()
        try:
            peer = source.connect(world.sink.descriptor(), timeout=patience)
        except CODES:
            assert time.monotonic() - began < patience + LATE
            yield region, None
            return
        yield region, peer


def rule(points: dict[str, list[str]]) -> st.SearchStrategy[str]:
    """ "POINT N|P% ACTION [SECONDS]"."""
    when = st.one_of(st.integers(0, 8).map(str), st.sampled_from(["5%", "30%", "100%"]))
    return st.one_of(
        st.builds(
            lambda point, at, action, delay: f"{point} {at} {action} {delay}",
            st.just(point), when, st.sampled_from(actions), st.sampled_from([0, 0.01, 0.1]),
        )
        for point, actions in points.items()
    )  # fmt: skip


DATA = {
    "op": ["drop", "delay", "duplicate", "truncate", "reorder", "corrupt", "cut"],
    "answer": ["drop", "delay", "cut"],
}
NEGOTIATION = {
    "frame": ["drop", "delay", "duplicate", "truncate", "reorder", "corrupt", "cut"],
    "region": ["drop", "corrupt", "truncate"],
}


def scripts(points: dict[str, list[str]]) -> st.SearchStrategy[str]:
    rules = st.lists(rule(points), min_size=1, max_size=4)
    return st.builds(lambda seed, chosen: "; ".join([f"seed={seed}", *chosen]), st.integers(0, 2**32), rules)


every_path = pytest.mark.parametrize("transport", paths())


@every_path
@settings(max_examples=25, deadline=None)
@given(script=scripts(DATA), wanted=moves)
def test_operations_keep_their_promises_whatever_happens_to_them(
    transport: str, script: str, wanted: list[Move]
) -> None:
    with World(transport) as world, broken_source(world, transport, script) as (region, peer):
        assert peer is not None
        world.run(region, peer, wanted)


@every_path
@settings(max_examples=25, deadline=None)
@given(script=scripts(NEGOTIATION), wanted=moves)
def test_a_path_that_is_badly_negotiated_is_refused_or_works(transport: str, script: str, wanted: list[Move]) -> None:
    with World(transport) as world, broken_source(world, transport, script, 1.0) as (region, peer):
        if peer is not None:
            own = "corrupt" not in script
            world.run(region, peer, wanted, honest=own, own=own)
        world.others_are_well()


@every_path
def test_an_answer_that_is_lost_after_the_data_landed_is_an_error_and_coming_again_changes_nothing(
    transport: str,
) -> None:
    with World(transport) as world, broken_source(world, transport, "answer 0 drop") as (region, peer):
        assert peer is not None
        region.array[:] = 1
        world.sink.expect(1, world.pool, [0], BLOCK)
        with pytest.raises(DeadlineExceeded):
            peer.write(region, "kv", [0], [0], BLOCK, 1, timeout=0.2).wait(5)
        assert world.sink.missing(1).size == 0
        region.array[:] = 2
        peer.write(region, "kv", [0], [0], BLOCK, 1, timeout=5).wait(5)
        assert (world.pool.array[:BLOCK] == 1).all()


@every_path
def test_operations_under_way_on_a_path_that_is_cut_begin_anew_on_the_socket(transport: str) -> None:
    with World(transport) as world, broken_source(world, transport, "op 2 cut") as (region, peer):
        assert peer is not None
        region.array[: BLOCK * PIECES] = pattern(0)
        there = places(0, PIECES)
        here = np.arange(PIECES, dtype=np.int64) * BLOCK
        world.sink.expect(1, world.pool, there, BLOCK)
        transfers = [peer.write(region, "kv", here, there, BLOCK, 1, timeout=5) for _ in range(4)]
        for transfer in transfers:
            transfer.wait(5)
        assert np.array_equal(world.slot(0)[:, 0].reshape(-1), pattern(0))
        assert peer.transport != transport
        assert dict(peer.transports)[transport]


@every_path
def test_a_changed_operation_is_refused_by_name(transport: str) -> None:
    for seed in range(16):
        with World(transport) as world, broken_source(world, transport, f"seed={seed}; op 0 corrupt") as (region, peer):
            assert peer is not None
            world.sink.expect(1, world.pool, [0], BLOCK)
            with pytest.raises(Refused, match="region kv of peer sink"):
                peer.write(region, "kv", [0], [0], BLOCK, 1, timeout=5).wait(5)
            assert (world.pool.array == GUARD).all()
            peer.write(region, "kv", [0], [0], BLOCK, 1, timeout=5).wait(5)


@pytest.mark.parametrize("script", [
    "op", "op 1", "op x drop", "op 1 nothing", "nowhere 1 drop", "op 1 delay", "op 1 delay x", "op 1 drop 1 1",
    "answer 0 duplicate", "region 0 delay 1", "seed=x", "op -1 drop", "op 1 delay -1", "op 1% drop extra",
])  # fmt: skip
def test_a_text_that_is_no_script_is_refused(script: str) -> None:
    with pytest.raises(InvalidInput, match="fault script"):
        Endpoint("a", transports=paths()[:1], _faults=script)


# The socket's frames, mistreated by a relay.

FRAMES = ["hello", "challenge", "proof", "ready", "sync", "synced", "write", "read", "data", "ack"]


def relay_rules(actions: list[str], kinds: list[str]) -> st.SearchStrategy[list[Rule]]:
    return st.lists(
        st.builds(Rule, st.sampled_from(kinds), st.integers(0, 3), st.sampled_from(actions), st.just(0.05)),
        min_size=1, max_size=3,
    )  # fmt: skip


def through_relay(rules: list[Rule], seed: int, wanted: list[Move]) -> None:
    with (
        World("tcp") as world,
        Relay(world.sink.port, rules, seed) as relay,
        Endpoint("source", transports=("tcp",), heartbeat=0.1, silence=1.0) as source,
    ):
        region = source.allocate(OPS * BLOCK * PIECES, "source")
        began = time.monotonic()
        try:
            peer = source.connect(relay.descriptor, timeout=1.0)
        except CODES:
            assert time.monotonic() - began < 1.0 + LATE
        else:
            world.run(region, peer, wanted)
        world.others_are_well()


@settings(max_examples=25, deadline=None)
@given(
    rules=relay_rules(["drop", "delay", "duplicate", "truncate", "reorder", "cut", "stall"], FRAMES),
    seed=st.integers(0, 2**32), wanted=moves,
)  # fmt: skip
def test_a_socket_keeps_its_promises_whatever_happens_to_its_frames(
    rules: list[Rule], seed: int, wanted: list[Move]
) -> None:
    through_relay(rules, seed, wanted)


@settings(max_examples=25, deadline=None)
@given(rules=relay_rules(["corrupt"], FRAMES), seed=st.integers(0, 2**32), wanted=moves)
def test_a_socket_whose_frames_are_changed_keeps_its_promises(rules: list[Rule], seed: int, wanted: list[Move]) -> None:
    through_relay(rules, seed, wanted)


def test_a_chunk_that_comes_twice_does_not_count_for_one_that_is_missing() -> None:
    with (
        World("tcp") as world,
        Relay(world.sink.port, [Rule("write", 0, "duplicate"), Rule("write", 1, "drop")]) as relay,
        Endpoint("source", transports=("tcp",)) as source,
    ):
        # Alternating blocks of 64 KiB: several chunks.
        n, length = 300, 1024
        there = np.arange(n, dtype=np.int64) * 2 * length
        region = source.allocate(n * length, "source")
        region.array[:] = 1
        peer = source.connect(relay.descriptor)
        with pytest.raises((DeadlineExceeded, PeerLost)):
            peer.write(region, "kv", np.arange(n, dtype=np.int64) * length, there, length, timeout=0.5).wait(5)
