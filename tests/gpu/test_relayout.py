"""nano._cuda.relayout is the CPU's relayout, on device memory."""

from __future__ import annotations

import numpy as np
import pytest
from relayout_reference import Case, side

torch = pytest.importorskip("torch")
cuda = pytest.importorskip("nano._cuda", reason="nano was built without CUDA")

from nano._core.kv import PoolLayout  # noqa: E402
from nano.errors import InvalidInput  # noqa: E402

pytestmark = pytest.mark.gpu


def run(case: Case) -> tuple[np.ndarray, int]:
    """The destination's memory afterwards, and the bytes that the call said it copies."""
    a, b = case.source, case.destination
    memory, target = torch.from_numpy(a.memory).cuda(), torch.from_numpy(b.memory).cuda()
    tables = [torch.from_numpy(s.table).cuda() for s in (a, b)]
    copied = cuda.relayout(
        memory.data_ptr(), a.layout, tables[0].data_ptr(), target.data_ptr(), b.layout, tables[1].data_ptr(),
        case.tokens, source_token=a.token, destination_token=b.token, layers=case.layers,
        stream=torch.cuda.current_stream().cuda_stream,
    )  # fmt: skip
    return target.cpu().numpy(), copied


@pytest.mark.parametrize("seed", range(40))
def test_any_layout_is_copied_as_numpy_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers, row_bytes, tokens = int(rng.integers(1, 5)), int(rng.choice([1, 6, 16, 64, 256])), int(rng.integers(0, 90))
    sides = []
    for _ in range(2):
        order = tuple(int(i) for i in rng.permutation(5)) if rng.random() < 0.6 else None
        token = int(rng.integers(0, 20)) if rng.random() < 0.5 else 0
        sides.append(side(
            rng, tokens, token, layers, int(rng.integers(1, 5)), int(rng.integers(0, 5)),
            int(rng.choice([1, 3, 16, 32])), row_bytes, order, int(rng.choice([0, 5])),
        ))  # fmt: skip
    case = Case(sides[0], sides[1], tokens, (int(rng.integers(0, layers)), layers))
    expected, copied = case.expected()
    target, said = run(case)
    assert said == copied
    np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize(("sizes", "heads"), [((16, 64), (8, 2)), ((64, 16), (2, 8)), ((64, 64), (8, 8))])
def test_ranks_of_two_tensor_parallel_degrees_give_each_other_whole_pools(
    sizes: tuple[int, int], heads: tuple[int, int]
) -> None:
    rng = np.random.default_rng(7)
    tokens, layers, row_bytes = 300, 3, 256
    sources = [side(rng, tokens, 0, layers, heads[0], first, sizes[0], row_bytes) for first in range(0, 8, heads[0])]
    for first in range(0, 8, heads[1]):
        target = side(rng, tokens, 0, layers, heads[1], first, sizes[1], row_bytes)
        for source in sources:
            case = Case(source, target, tokens, (0, layers))
            expected, _ = case.expected()
            target.memory, _ = run(case)
            np.testing.assert_array_equal(target.memory, expected)


def test_blocks_beyond_four_gib_are_right() -> None:
    block = PoolLayout(1, 32, 8, 64, 256).nbytes  # 8 MiB
    count = (5 << 30) // block
    if torch.cuda.mem_get_info()[0] < 2 * count * block:
        pytest.skip("needs 10 GiB of free device memory")
    layout = PoolLayout(count, 32, 8, 64, 256)
    pool = torch.empty(layout.nbytes, dtype=torch.uint8, device="cuda")
    pool[-block:] = torch.randint(0, 256, (block,), dtype=torch.uint8, device="cuda")
    small = PoolLayout(4, 32, 8, 16, 256)
    out = torch.zeros(small.nbytes, dtype=torch.uint8, device="cuda")
    last = torch.tensor([count - 1], dtype=torch.int32, device="cuda")
    tables = torch.arange(4, dtype=torch.int32, device="cuda")
    cuda.relayout(pool.data_ptr(), layout, last.data_ptr(), out.data_ptr(), small, tables.data_ptr(), 64)
    a = pool[-block:].view(32, 2, 8, 4, 16, 256).permute(3, 0, 1, 2, 4, 5)
    assert torch.equal(out.view(4, 32, 2, 8, 16, 256), a)


def test_host_memory_and_layouts_that_do_not_match_are_refused_by_name() -> None:
    layout = PoolLayout(2, 1, 1, 4, 16)
    memory = torch.zeros(layout.nbytes, dtype=torch.uint8, device="cuda")
    table = torch.zeros(2, dtype=torch.int32, device="cuda")
    host = torch.zeros(layout.nbytes, dtype=torch.uint8)
    good = [memory.data_ptr(), layout, table.data_ptr(), memory.data_ptr(), layout, table.data_ptr(), 4]
    for position, value, text in [
        (0, host.data_ptr(), "relayout: source: expected memory that a CUDA device reaches"),
        (3, host.data_ptr(), "relayout: destination: expected memory that a CUDA device reaches"),
        (2, host.data_ptr(), "relayout: source_blocks: expected memory that a CUDA device reaches"),
        (5, table.data_ptr() + 2, "destination_blocks: expected an address that 4 divides"),
        (4, PoolLayout(2, 2, 1, 4, 16), "expected equal layers and row_bytes"),
    ]:
        with pytest.raises(InvalidInput, match=text):
            cuda.relayout(*[value if i == position else x for i, x in enumerate(good)])
