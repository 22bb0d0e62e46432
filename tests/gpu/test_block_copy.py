"""nano._cuda.gather and scatter move exactly the bytes they are told to, whatever the alignment."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
cuda = pytest.importorskip("nano._cuda", reason="nano was built without CUDA")

from nano.errors import InvalidInput  # noqa: E402

pytestmark = pytest.mark.gpu

POISON = 0xA5
GUARD = 256  # bytes before and after what a call may write

# (count, length, what every address and distance is a multiple of)
SHAPES = [
    (1, 1, 1), (3, 15, 1), (64, 17, 1), (5, 2047, 1), (9, 2052, 4), (7, 4100, 4), (1, 16, 16), (1000, 16, 16),
    (257, 2048, 16), (33, 2064, 16), (64, 16384, 16), (40, 65536, 16), (5, 1 << 20, 16), (3, (1 << 20) + 48, 16),
    (20000, 48, 16), (3, (1 << 20) + 3, 1),
]  # fmt: skip


def case(count: int, length: int, align: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` disjoint blocks in random order in [scattered bytes]: that memory, random, and their offsets."""
    generator = torch.Generator().manual_seed(seed)
    pitch = -(-(length + align) // align) * align
    places = torch.randperm(count * 2, generator=generator)[:count] * pitch
    jitter = torch.randint(0, (pitch - length) // align + 1, (count,), generator=generator) * align
    offsets = (places + jitter).cuda()
    memory = torch.randint(0, 256, (count * 2 * pitch + align,), generator=generator, dtype=torch.uint8).cuda()
    return memory, offsets


def index(offsets: torch.Tensor, length: int) -> torch.Tensor:
    """[count, length]: the place of each block's bytes."""
    return offsets[:, None] + torch.arange(length, device="cuda")


def poisoned(size: int) -> torch.Tensor:
    return torch.full((size,), POISON, dtype=torch.uint8, device="cuda")


@pytest.mark.parametrize(("count", "length", "align"), SHAPES)
def test_gather_copies_each_block_and_nothing_else(count: int, length: int, align: int) -> None:
    memory, offsets = case(count, length, align, seed=count + length)
    out = poisoned(count * length + 2 * GUARD)
    stream = torch.cuda.current_stream().cuda_stream
    cuda.gather(memory.data_ptr(), out.data_ptr() + GUARD, offsets.data_ptr(), count, length, stream)
    assert torch.equal(out[GUARD:-GUARD].view(count, length), memory[index(offsets, length)])
    assert bool((out[:GUARD] == POISON).all() & (out[-GUARD:] == POISON).all())


@pytest.mark.parametrize(("count", "length", "align"), SHAPES)
def test_scatter_copies_each_block_and_nothing_else(count: int, length: int, align: int) -> None:
    memory, offsets = case(count, length, align, seed=count * length)
    packed = torch.randint(0, 256, (count, length), dtype=torch.uint8).cuda()
    expected = memory.clone()
    expected[index(offsets, length)] = packed
    stream = torch.cuda.current_stream().cuda_stream
    cuda.scatter(packed.data_ptr(), memory.data_ptr(), offsets.data_ptr(), count, length, stream)
    assert torch.equal(memory, expected)


@pytest.mark.parametrize("shift", [1, 2, 4, 8, 12])
def test_blocks_that_start_off_a_16_byte_boundary_are_copied(shift: int) -> None:
    count, length = 50, 4096
    memory, offsets = case(count, length, 16, seed=shift)
    out = poisoned(count * length + 2 * GUARD)
    stream = torch.cuda.current_stream().cuda_stream
    cuda.gather(memory.data_ptr() + shift, out.data_ptr() + GUARD, offsets.data_ptr(), count, length, stream)
    assert torch.equal(out[GUARD:-GUARD].view(count, length), memory[index(offsets + shift, length)])


def test_offsets_beyond_four_gib_are_right() -> None:
    size = (5 << 30) + 4096
    if torch.cuda.mem_get_info()[0] < 2 * size:
        pytest.skip(f"needs {2 * size} bytes of free device memory")
    memory = torch.empty(size, dtype=torch.uint8, device="cuda")
    offsets = torch.tensor([5 << 30, (1 << 32) - 2048, 0], device="cuda")
    packed = torch.randint(0, 256, (3, 4096), dtype=torch.uint8).cuda()
    out = poisoned(3 * 4096)
    stream = torch.cuda.current_stream().cuda_stream
    cuda.scatter(packed.data_ptr(), memory.data_ptr(), offsets.data_ptr(), 3, 4096, stream)
    cuda.gather(memory.data_ptr(), out.data_ptr(), offsets.data_ptr(), 3, 4096, stream)
    assert torch.equal(memory[-4096:], packed[0])
    assert torch.equal(out.view(3, 4096), packed)


def test_a_call_runs_on_its_stream_and_into_a_graph() -> None:
    memory, offsets = case(100, 2048, 16, seed=1)
    out = poisoned(100 * 2048)
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=stream):
        cuda.gather(memory.data_ptr(), out.data_ptr(), offsets.data_ptr(), 100, 2048, stream.cuda_stream)
    torch.cuda.synchronize()
    assert bool((out == POISON).all())  # captured, not run
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out.view(100, 2048), memory[index(offsets, 2048)])


def test_memory_that_no_device_reaches_is_refused_by_name() -> None:
    memory, offsets = case(1, 16, 16, seed=1)
    host = bytearray(64)
    address = torch.frombuffer(host, dtype=torch.uint8).data_ptr()
    with pytest.raises(InvalidInput, match="gather: source: expected memory that a CUDA device reaches"):
        cuda.gather(address, memory.data_ptr(), offsets.data_ptr(), 1, 16)
    with pytest.raises(InvalidInput, match="scatter: destination: expected memory that a CUDA device reaches"):
        cuda.scatter(memory.data_ptr(), address, offsets.data_ptr(), 1, 16)
    with pytest.raises(InvalidInput, match="gather: offsets: expected memory that a CUDA device reaches"):
        cuda.gather(memory.data_ptr(), memory.data_ptr(), address & ~7, 1, 16)


def test_sizes_that_mean_nothing_are_refused_and_none_is_a_copy_of_nothing() -> None:
    memory, offsets = case(1, 16, 16, seed=1)
    pointers = memory.data_ptr(), memory.data_ptr(), offsets.data_ptr()
    with pytest.raises(InvalidInput, match="count: expected >= 0, got -1"):
        cuda.gather(*pointers, -1, 16)
    with pytest.raises(InvalidInput, match="length: expected >= 0 bytes, got -16"):
        cuda.scatter(*pointers, 1, -16)
    with pytest.raises(InvalidInput, match="offsets: expected an address that 8 divides"):
        cuda.gather(memory.data_ptr(), memory.data_ptr(), offsets.data_ptr() + 4, 1, 16)
    before = memory.clone()
    cuda.gather(*pointers, 0, 16)
    cuda.scatter(*pointers, 1, 0)
    assert torch.equal(memory, before)
