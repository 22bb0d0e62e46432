"""A mesh connects each pair once, in any order of dialling, and again after a member died; others notice nothing."""

from __future__ import annotations

import contextlib
import signal
import threading
import time

import pytest
from transfer_child import Child, child, wait_event

from nano.errors import Closed, DeadlineExceeded, InvalidInput, PeerLost, Refused
from nano.transfer import Endpoint, Mesh, Peer

N = 6
LENGTH = 4096

# Member i of N. "exchange s": writes a block of s to slot i of every other member, all at once; "verify s": the other
# members' blocks have come; "ids": the ids of its connections.
MEMBER = """
import sys, threading
import numpy as np
from nano.transfer import Endpoint, Mesh
i, n, length, transport = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
with Endpoint(f"member{i}", transports=(transport,)) as endpoint, Mesh(endpoint) as mesh:
    region = endpoint.allocate(n * length, "kv")
    source = endpoint.allocate(length, "source")
    print(endpoint.descriptor().hex(), flush=True)
    def move(name):
        mesh.peer(name, 10).write(source, "kv", [0], [i * length], length).wait(10)
    for line in sys.stdin:
        command, *args = line.split()
        if command == "add":
            for text in args:
                mesh.add(bytes.fromhex(text))
            print("added", flush=True)
        elif command == "exchange":
            source.array[:] = int(args[0])
            threads = [threading.Thread(target=move, args=(name,)) for name in mesh.members() if name not in args]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            print("moved", flush=True)
        elif command == "verify":
            blocks = region.array.reshape(n, length)
            print([j for j in range(n) if j != i and not (blocks[j] == int(args[0])).all()], flush=True)
        elif command == "ids":
            print({name: peer.id for name, peer in mesh.connected().items()}, flush=True)
"""


def everyone(members: list[Child], command: str) -> list[str]:
    for member in members:
        member.tell(command)
    return [member.readline() for member in members]


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_six_members_exchange_all_to_all_and_outlive_one_that_is_killed_and_started_anew(transport: str) -> None:
    with contextlib.ExitStack() as stack:
        members = [stack.enter_context(child(MEMBER, i, N, LENGTH, transport)) for i in range(N)]
        everyone(members, "add " + " ".join(member.first for member in members))
        assert everyone(members, "exchange 7") == ["moved"] * N
        assert everyone(members, "verify 7") == ["[]"] * N

        before = [eval(line) for line in everyone(members, "ids")]
        assert all(len(ids) == N - 1 for ids in before)
        victim, rest = 3, [i for i in range(N) if i != 3]
        members[victim].signal(signal.SIGKILL)
        members[victim].process.wait(5)
        others = [members[i] for i in rest]
        assert everyone(others, "exchange 8 member3") == ["moved"] * (N - 1)
        assert everyone(others, "verify 8") == ["[3]"] * (N - 1)

        members[victim] = stack.enter_context(child(MEMBER, victim, N, LENGTH, transport))
        everyone(others, "add " + members[victim].first)
        members[victim].ask("add " + " ".join(member.first for member in members))
        assert everyone(members, "exchange 9") == ["moved"] * N
        assert everyone(members, "verify 9") == ["[]"] * N
        after = [eval(line) for line in everyone(others, "ids")]
        for i, ids in zip(rest, after, strict=True):
            ids.pop("member3")
            assert ids == {name: peer for name, peer in before[i].items() if name != "member3"}


def test_a_pair_has_one_connection_whoever_dials_first() -> None:
    with Endpoint("a") as a, Endpoint("b") as b, Mesh(a, [b.descriptor()]) as near, Mesh(b, [a.descriptor()]) as far:
        for mesh, other, back in ((near, "b", far), (far, "a", near)):
            dialled = mesh.peer(other)
            answer = back.peer("a" if other == "b" else "b")
            assert len(near.connected()) == len(far.connected()) == 1
            answer.send(b"hello")
            assert wait_event(mesh, "message", 5).peer is dialled
            dialled.close()
            wait_event(back, "lost", 5)


def test_simultaneous_dialling_ends_in_the_same_choice_on_both_sides_and_fails_nobody() -> None:
    for _ in range(20):
        with (
            Endpoint("a") as a,
            Endpoint("b") as b,
            Mesh(a, [b.descriptor()]) as near,
            Mesh(b, [a.descriptor()]) as far,
        ):
            regions = {endpoint.name: endpoint.allocate(LENGTH, "kv") for endpoint in (a, b)}
            barrier, got = threading.Barrier(2), dict[str, Peer]()

            def dial(
                mesh: Mesh, me: str, other: str, barrier: threading.Barrier, got: dict[str, Peer], regions=regions
            ):  # type: ignore[no-untyped-def]
                barrier.wait(5)
                got[me] = mesh.peer(other)
                got[me].write(regions[me], "kv", [0], [0], LENGTH).wait(5)

            threads = [
                threading.Thread(target=dial, args=args)
                for args in ((near, "a", "b", barrier, got, regions), (far, "b", "a", barrier, got, regions))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
            assert sorted(got) == ["a", "b"]
            # Once all events are in, both use the same one: what the one sends arrives at what the other holds.
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                chosen = far.peer("a")
                near.peer("b").send(b"which")
                if wait_event(far, "message", 5).peer is chosen:
                    break
            else:
                raise AssertionError("the two sides chose different connections")


def test_a_member_that_cannot_be_reached_is_tried_again_until_the_deadline_and_named() -> None:
    with Endpoint("a") as a, Mesh(a, backoff=(0.02, 0.1)) as mesh:
        with Endpoint("gone") as gone:
            mesh.add(gone.descriptor())
        began = time.monotonic()
        with pytest.raises(PeerLost):
            mesh.peer("gone", timeout=0.5)
        assert 0.4 < time.monotonic() - began < 2
        with Endpoint("gone") as back:
            waiting = threading.Timer(0.1, lambda: mesh.add(back.descriptor()))
            waiting.start()
            assert mesh.peer("gone", timeout=5).name == "gone"
            waiting.join()
            with pytest.raises(InvalidInput, match="no member nobody"):
                mesh.peer("nobody")


def test_a_frozen_member_times_out_and_delays_no_other() -> None:
    with (
        child(MEMBER, 1, 2, LENGTH, "tcp") as frozen,
        child(MEMBER, 0, 2, LENGTH, "tcp") as well,
        Endpoint("a") as a,
        Mesh(a, [bytes.fromhex(frozen.first), bytes.fromhex(well.first)]) as mesh,
    ):
        frozen.freeze()
        caught: list[BaseException] = []

        def dial() -> None:
            try:
                mesh.peer("member1", timeout=1.0)
            except DeadlineExceeded as error:
                caught.append(error)

        threads = [threading.Thread(target=dial) for _ in range(3)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        assert mesh.peer("member0", timeout=5).name == "member0"
        assert time.monotonic() - began < 0.9
        for thread in threads:
            thread.join(5)
        assert len(caught) == 3
        assert time.monotonic() - began < 3
        frozen.signal(signal.SIGCONT)
        assert mesh.peer("member1", timeout=10).name == "member1"


def test_many_threads_that_want_one_member_make_one_connection() -> None:
    with Endpoint("a") as a, Endpoint("b") as b, Mesh(a, [b.descriptor()]) as mesh:
        ids: list[int] = []
        threads = [threading.Thread(target=lambda: ids.append(mesh.peer("b").id)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(ids) == 16
        assert len(set(ids)) == 1
        assert [event.kind for event in b.poll()] == ["joined"]


def test_refusals_are_raised_at_once_and_a_closed_mesh_wakes_who_waits() -> None:
    with Endpoint("a") as a, Endpoint("b", secret=b"x") as b, Mesh(a, [b.descriptor()]) as mesh:
        began = time.monotonic()
        with pytest.raises(Refused, match="secret"):
            mesh.peer("b", timeout=10)
        assert time.monotonic() - began < 2
        with Endpoint("gone") as gone:
            mesh.add(gone.descriptor())
        timer = threading.Timer(0.1, mesh.close)
        timer.start()
        with pytest.raises(Closed):
            mesh.peer("gone", timeout=10)
        timer.join()
        assert not a.closed
        with pytest.raises(Closed):
            mesh.add(b.descriptor())


def test_ones_own_descriptor_is_skipped_and_ones_own_name_is_refused() -> None:
    with Endpoint("a") as a, Endpoint("a") as twin, Mesh(a, [a.descriptor()]) as mesh:
        assert mesh.members() == []
        with pytest.raises(InvalidInput, match="own name"):
            mesh.add(twin.descriptor())


def test_a_removed_member_is_disconnected() -> None:
    with Endpoint("a") as a, Endpoint("b") as b, Mesh(a, [b.descriptor()]) as mesh:
        peer = mesh.peer("b")
        mesh.remove("b")
        assert peer.closed
        wait_event(b, "lost", 5)
        assert mesh.members() == []
