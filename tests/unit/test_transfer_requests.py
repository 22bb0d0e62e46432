"""What can be asked of a peer: strides, immediates, prepared requests, awaiting."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import numpy as np
import pytest

from nano.errors import Closed, InvalidInput, PeerLost, Refused
from nano.transfer import Endpoint
from tests.unit.test_transfer import MIB, Pair, events_until


@pytest.fixture(params=["shm", "cma", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(request.param)
    made.src.array[:] = np.random.default_rng(0).integers(0, 256, made.src.nbytes, dtype=np.uint8)
    yield made
    made.close()


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint16, list])
def test_blocks_are_named_by_base_index_and_stride(pair: Pair, kind: type) -> None:
    src, dst = [5, 0, 7, 2], [1, 9, 3, 8]
    give = (lambda x: x) if kind is list else (lambda x: np.array(x, kind))
    expected = pair.dst.array.copy()
    for s, d in zip(src, dst, strict=True):
        expected[64 + d * 5000 :][:3000] = pair.src.array[100 + s * 4096 :][:3000]
    where = {"src_base": 100, "src_stride": 4096, "dst_base": 64, "dst_stride": 5000}
    pair.peer.write(pair.src, "kv", give(src), give(dst), 3000, **where).wait()
    assert np.array_equal(pair.dst.array, expected)
    pair.dst.array[:] = 0
    back = {"dst_base": 64, "dst_stride": 5000, "src_base": 100, "src_stride": 4096}
    pair.peer.read(pair.src, "kv", 0, 0, 3000, dst_base=MIB, src_base=7).wait()
    assert not pair.src.array[MIB : MIB + 3000].any()
    with pytest.raises(InvalidInput, match="outside region"):
        pair.peer.read(pair.src, "kv", give([2000]), give([0]), 3000, **back)
    with pytest.raises(InvalidInput, match="expected >= 0"):
        pair.peer.write(pair.src, "kv", [1], [0], 1, src_stride=-1)


def test_one_integer_is_one_range(pair: Pair) -> None:
    pair.peer.write(pair.src, "kv", 10, 20, 2 * MIB).wait()
    assert np.array_equal(pair.dst.array[20 : 20 + 2 * MIB], pair.src.array[10 : 10 + 2 * MIB])


@pytest.mark.parametrize("tag", [0, 7])
def test_neighbouring_blocks_land_like_any_others(pair: Pair, tag: int) -> None:
    """Runs, gaps on either side, a piece number out of step, and more blocks than one merged piece may have."""
    n, length = 4000, 512
    src = np.arange(n, dtype=np.int64) * length
    dst = src.copy()
    src[1000:] += length  # a gap in the source
    dst[2000:] += 3 * length  # and in the destination
    pieces = np.arange(n)
    pieces[[3000, 3001]] = pieces[[3001, 3000]]
    if tag:
        expected = np.empty(n, np.int64)
        expected[pieces] = dst
        pair.sink.expect(tag, pair.dst, expected, length)
    pair.peer.write(pair.src, "kv", src, dst, length, tag=tag, pieces=pieces if tag else None).wait()
    for s, d in zip(src, dst, strict=True):
        assert np.array_equal(pair.dst.array[d : d + length], pair.src.array[s : s + length])
    assert not pair.dst.array[2000 * length : 2003 * length].any()
    assert not pair.dst.array[dst[-1] + length :].any()
    if tag:
        assert pair.sink.missing(tag).size == 0


def test_a_merged_run_writes_only_the_pieces_that_are_missing(pair: Pair) -> None:
    length, n = 1024, 200
    offsets = np.arange(n, dtype=np.int32)
    pair.sink.expect(3, pair.dst, np.arange(n) * length, length)
    early = np.array([0, 1, 50, 51, 52, 199])
    where = {"src_stride": length, "dst_stride": length}
    pair.peer.write(pair.src, "kv", early, early, length, tag=3, pieces=early, **where).wait()
    assert sorted(set(range(n)) - set(pair.sink.missing(3).tolist())) == early.tolist()
    marked = pair.dst.array[: n * length].reshape(n, length)
    marked[early] = 77  # the pieces that are there must not be written again
    pair.peer.write(pair.src, "kv", offsets, offsets, length, tag=3, **where).wait()
    assert (marked[early] == 77).all()
    rest = np.setdiff1d(offsets, early)
    assert np.array_equal(marked[rest], pair.src.array[: n * length].reshape(n, length)[rest])


def test_a_refusal_names_the_block_inside_a_merged_run(pair: Pair) -> None:
    pair.sink.expect(4, pair.dst, np.arange(10) * 4096, 4096)
    where = np.arange(12) * 4096
    with pytest.raises(Refused, match=r"position 10 \(piece 10\), remote offset 40960 \+ 4096"):
        pair.peer.write(pair.src, "kv", where, where, 4096, tag=4).wait()
    with pytest.raises(Refused, match="past the end"):
        pair.peer.write(pair.src, "kv", [0, 4096], [4 * MIB - 4096, 4 * MIB], 4096).wait()


def test_an_immediate_comes_after_every_block_and_only_then(pair: Pair) -> None:
    offsets = np.random.default_rng(1).permutation(1000) * 4096
    pair.peer.write(pair.src, "kv", offsets, offsets, 4096, imm=0xFFFFFFFF)
    event = events_until(pair.sink, "written")
    assert np.array_equal(pair.dst.array[: 1000 * 4096], pair.src.array[: 1000 * 4096])
    assert (event.imm, event.tag) == (0xFFFFFFFF, 0)
    assert event.peer is not None
    assert event.peer.name == "source"
    pair.sink.expect(5, pair.dst, offsets, 4096)
    with pytest.raises(Refused):
        pair.peer.write(pair.src, "kv", offsets, offsets[::-1], 4096, tag=5, imm=1).wait()
    pair.peer.write(pair.src, "kv", offsets, offsets, 4096, tag=5, imm=2).wait()
    event = events_until(pair.sink, "written")
    assert (event.imm, event.tag) == (2, 5)


def test_a_prepared_request_can_be_posted_again_until_its_region_closes(pair: Pair) -> None:
    extra = pair.source.allocate(MIB, "extra")
    offsets = np.arange(256) * 4096
    write = pair.peer.prepare_write(extra, "kv", offsets, offsets[::-1].copy(), 4096)
    read = pair.peer.prepare_read(extra, "kv", offsets, offsets[::-1].copy(), 4096)
    assert (write.blocks, write.nbytes) == (256, MIB)
    for value in range(5):
        extra.array[:] = value
        write.post().wait()
        assert (pair.dst.array[:MIB] == value).all()
        pair.dst.array[:MIB] = 100 + value
        read.post().wait()
        assert (extra.array == 100 + value).all()
    several = [read.post() for _ in range(50)]
    for transfer in several:
        transfer.wait()
    extra.close()
    for request in (write, read):
        with pytest.raises(Closed, match="extra is closed"):
            request.post()
    with pytest.raises(InvalidInput):
        pair.peer.prepare_write(pair.src, "kv", [pair.src.nbytes], [0], 1)
    last = pair.peer.prepare_write(pair.src, "kv", 0, 0, 1)
    pair.peer.close()
    with pytest.raises((Closed, PeerLost)):
        last.post()


def test_a_transfer_can_be_awaited(pair: Pair) -> None:
    async def go() -> None:
        await asyncio.gather(*(one(i) for i in range(20)))
        with pytest.raises(Refused):
            await pair.peer.write(pair.src, "nothing", 0, 0, 1)
        await pair.peer.send(b"hello")
        await asyncio.wait_for(big(), 5)
        slow = asyncio.ensure_future(big())
        await asyncio.sleep(0)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        await pair.peer.flush()

    async def one(i: int) -> None:
        await pair.peer.write(pair.src, "kv", i * 100, i * 100, 100)

    async def big() -> None:
        await pair.peer.write(pair.src, "kv", 0, 0, pair.src.nbytes)

    asyncio.run(go())
    assert np.array_equal(pair.dst.array, pair.src.array)
    assert events_until(pair.sink, "message").data == b"hello"


def test_flush_ends_when_all_that_was_posted_has(pair: Pair) -> None:
    transfers = [pair.peer.write(pair.src, "kv", 0, 0, MIB) for _ in range(20)]
    transfers.append(pair.peer.read(pair.src, "kv", 2 * MIB, 0, MIB))
    pair.peer.flush().wait()
    assert all(transfer.done() for transfer in transfers)
    pair.peer.write(pair.src, "nothing", 0, 0, MIB)
    failed = pair.peer.flush()
    pair.peer.write(pair.src, "kv", 0, 0, MIB)
    try:
        failed.wait()
    except Refused:
        pass  # unless it had been refused before the flush
    pair.peer.flush().wait()


def test_a_message_is_confirmed(pair: Pair) -> None:
    pair.peer.send(b"x" * 1000).wait(5)
    assert events_until(pair.sink, "message").data == b"x" * 1000


def test_peers_say_which_transports_they_use_and_why_not_the_others() -> None:
    with Endpoint("a") as a, Endpoint("b", transports=("shm", "tcp")) as b:
        peer = a.connect(b.descriptor())
        reasons = dict(peer.transports)
        assert [name for name, why in peer.transports if not why] == ["shm", "unix"]
        assert reasons["cma"] == "the peer does not offer it"
        remote = a.connect(b.descriptor(), transports=("tcp",))
        assert remote.transport == "tcp"
        with pytest.raises(InvalidInput, match="carrier pigeon"):
            a.connect(b.descriptor(), transports=("carrier pigeon",))


def test_a_registered_buffer_goes_by_cma_and_an_allocated_one_by_shm() -> None:
    with Endpoint("a") as a, Endpoint() as b:
        assert b.name
        peer = a.connect(b.descriptor())
        assert dict(peer.transports)["cma"] == ""
        theirs, mine = np.zeros(MIB, np.uint8), np.full(MIB, 3, np.uint8)
        with b.register(theirs, "theirs"), a.register(mine, "mine") as region:
            peer.write(region, "theirs", 0, 0, MIB).wait()
            assert (theirs == 3).all()
            theirs[:] = 4
            peer.read(region, "theirs", 0, 0, MIB).wait()
            assert (mine == 4).all()


@pytest.mark.parametrize("transport", ["shm", "cma"])
def test_a_read_of_a_region_that_closes_never_brings_what_came_after(transport: str) -> None:
    """A read that succeeds holds the bytes from before Region.close returned."""
    with Endpoint("a", transports=(transport,)) as a, Endpoint("b", transports=(transport,)) as b:
        pool, mine = b.allocate(8 * MIB, "pool"), a.allocate(8 * MIB, "mine")
        peer = a.connect(b.descriptor())
        refused = 0
        for round_ in range(60):
            pool.array[:] = 1
            lent = b.register((pool.address, pool.nbytes), f"lent {round_}")
            peer.send(b"").wait()  # the region is known there
            length = 2 * MIB >> round_ % 10
            reads = [peer.read(mine, f"lent {round_}", i * 2 * MIB, 0, length) for i in range(4)]
            lent.close()
            pool.array[:] = 2  # ours again
            for i, read in enumerate(reads):
                try:
                    read.wait()
                    assert (mine.array[i * 2 * MIB :][:length] == 1).all()
                except (Refused, Closed):
                    refused += 1
                except PeerLost as error:
                    raise AssertionError("the connection must go on") from error
            mine.array[:] = 0
        assert refused > 0


def test_torch_tensors_register_without_numpy() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(1000, dtype=torch.bfloat16)
    with Endpoint("a") as a, Endpoint("b") as b:
        target = b.allocate(2000, "kv")
        region = a.register(tensor, "tensor")
        assert region.nbytes == 2000
        assert region.device is None
        a.connect(b.descriptor()).write(region, "kv", 0, 0, 2000).wait()
        assert np.array_equal(target.array, tensor.view(torch.uint8).numpy())
        with pytest.raises(InvalidInput, match="contiguous"):
            a.register(tensor[::2], "strided")
        del region, tensor
        gc.collect()


def test_allocated_memory_says_which_pages_it_got() -> None:
    with Endpoint("a") as a:
        assert a.allocate(5 * MIB, "plain", huge_pages=False).huge_pages == "none"
        pool = a.allocate(5 * MIB, "huge")
        assert pool.huge_pages in ("hugetlb", "transparent", "none")
        assert pool.nbytes == 5 * MIB
        assert not pool.array.any()
