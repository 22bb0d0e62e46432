"""The copy kernel of nano.transfer: many pieces, uneven and unaligned ones, and many transfers at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cuda_peer import SIZE, Endpoint, Peer, make_region, opened, pattern, tensor  # noqa: E402

pytestmark = pytest.mark.gpu

PAIRS = [("device", "device"), ("device", "host"), ("host", "device"), ("torch", "numpy")]


@pytest.fixture(scope="module")
def other() -> Iterator[Peer]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    child = Peer()
    yield child
    child.end()


def places(count: int, length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(SIZE // length)[:count].astype(np.int64) * length


@pytest.mark.parametrize(("near", "far"), PAIRS)
def test_pieces_of_any_length_and_alignment_land_exactly(other: Peer, near: str, far: str) -> None:
    with opened(other, far) as descriptor, Endpoint("parent") as endpoint:
        region = make_region(endpoint, near, "near", seed=1)
        source, expected = tensor(region).cpu().numpy(), np.zeros(SIZE, np.uint8)
        with endpoint.connect(descriptor, timeout=20) as remote:
            for length in (1, 16, 1000, 2048, 4100, 40_000, 70_001):
                count = min(3000, SIZE // length // 2)
                src, dst = places(count, length, 2), places(count, length, 3)
                remote.write(region, "far", src, dst, length).wait(20)
                for s, d in zip(src, dst, strict=True):
                    expected[d : d + length] = source[s : s + length]
                np.testing.assert_array_equal(other.ask("content"), expected)


@pytest.mark.parametrize(("near", "far"), PAIRS)
def test_many_reads_under_way_together_land_exactly(other: Peer, near: str, far: str) -> None:
    length, turns = 4096, 8
    with opened(other, far, 5) as descriptor, Endpoint("parent") as endpoint:
        region = make_region(endpoint, near, "near")
        src, dst = places(SIZE // length, length, 2), places(SIZE // length, length, 3)
        with endpoint.connect(descriptor, timeout=20) as remote:
            transfers = [remote.read(region, "far", dst[i::turns], src[i::turns], length) for i in range(turns)]
            for transfer in transfers:
                transfer.wait(20)
        expected = np.zeros((SIZE // length, length), np.uint8)
        expected[dst // length] = pattern(5).numpy().reshape(-1, length)[src // length]
        np.testing.assert_array_equal(tensor(region).cpu().numpy(), expected.reshape(-1))


def test_writes_and_reads_under_way_together_land_exactly(other: Peer) -> None:
    length, half = 16 << 10, SIZE // 2
    with opened(other, "device", 5) as descriptor, Endpoint("parent") as endpoint:
        region = make_region(endpoint, "device", "near", seed=1)
        at = np.arange(half // length, dtype=np.int64) * length
        with endpoint.connect(descriptor, timeout=20) as remote:
            for _ in range(5):
                transfers = []
                for i in range(4):  # our first half there, their second half here
                    transfers.append(remote.write(region, "far", at[i::4], at[i::4], length))
                    transfers.append(remote.read(region, "far", at[i::4] + half, at[i::4] + half, length))
                for transfer in transfers:
                    transfer.wait(20)
            got = other.ask("content")
        ours, theirs = pattern(1).numpy(), pattern(5).numpy()
        np.testing.assert_array_equal(got, np.concatenate([ours[:half], theirs[half:]]))
        np.testing.assert_array_equal(tensor(region).cpu().numpy(), got)
