"""Products against float64: odd sizes, poisoned outputs, splits, fp8 with block scales, SiLU at the end."""

from __future__ import annotations

import pytest
import torch
from kernel_device import CUDA, DEVICE, HALF, TOLERANCE, relative_error

from nano.engine.kernels import hopper_linear
from nano.engine.kernels.linear import Tile, fuses_silu, linear, linear_fp8, linear_silu
from nano.engine.kernels.quantize import FP8, GROUP, new_scales, quantize
from nano.errors import InvalidInput

ROWS = [1, 3, 16, 50] if CUDA else [1, 3, 33]
TILES = [Tile(64, 128), Tile(32, 64, parts=3), Tile(16, 128, parts=2)]
FP8_TOLERANCE = 4e-2


def random(*shape: int, dtype: torch.dtype = HALF, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)


def poisoned(*shape: int, dtype: torch.dtype = HALF) -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=dtype, device=DEVICE)


def fp8_weight(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The weight, its scales, and what they mean together, float64."""
    weight = random(rows, columns, dtype=torch.float32, seed=1).to(FP8)
    scales = random(-(-rows // GROUP), -(-columns // GROUP), dtype=torch.float32, seed=2).abs() / columns**0.5 + 0.01
    wide = scales.double().repeat_interleave(GROUP, 0)[:rows].repeat_interleave(GROUP, 1)[:, :columns]
    return weight, scales, weight.double() * wide


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("n", "k"), [(100, 208), (256, 512), (1, 64)])
@pytest.mark.parametrize("tile", TILES)
def test_a_product_of_few_rows_is_exact_to_its_dtype(rows: int, n: int, k: int, tile: Tile) -> None:
    x, weight, out = random(rows, k), random(n, k, seed=1) / k**0.5, poisoned(rows, n)
    for _ in range(2):  # a second product finds the counters as the first one did
        linear(x, weight, out.fill_(float("nan")), tile)
        assert relative_error(out, x.double() @ weight.double().T) < TOLERANCE[HALF]


@pytest.mark.parametrize("rows", [1, 2, 9, 64, 65, 130])
def test_any_number_of_rows_finds_its_kernel(rows: int) -> None:
    for dtype in (HALF, torch.float32):
        x, weight = random(rows, 256, dtype=dtype), random(192, 256, dtype=dtype, seed=1) / 16
        out = poisoned(rows, 192, dtype=dtype)
        linear(x, weight, out)
        assert relative_error(out, x.double() @ weight.double().T) < TOLERANCE[dtype]


def test_strided_rows_and_neighbours_are_left_alone() -> None:
    wide, weight, target = random(4, 300), random(64, 128, seed=1), poisoned(5, 96)
    linear(wide[:3, 16:144], weight, target[1:4, :64], Tile(32, 64))
    assert relative_error(target[1:4, :64], wide[:3, 16:144].double() @ weight.double().T) < TOLERANCE[HALF]
    assert target[0].isnan().all()
    assert target[4].isnan().all()
    assert target[:, 64:].isnan().all()


def test_parts_add_up_in_the_same_order_every_time() -> None:
    x, weight = random(8, 1024), random(128, 1024, seed=1)
    outs = [poisoned(8, 128) for _ in range(5)]
    for out in outs:
        linear(x, weight, out, Tile(32, 64, parts=4))
    assert all(torch.equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("tile", [Tile(64, 128), Tile(16, 128, parts=2)])
def test_an_fp8_product_is_that_of_the_values_it_stands_for(rows: int, tile: Tile) -> None:
    weight, scales, meant = fp8_weight(200, 384)
    x8 = random(rows, 384, dtype=torch.float32).to(FP8)
    x_scales = new_scales(rows, 384, DEVICE)
    x_scales.copy_(random(rows, 3, dtype=torch.float32, seed=3).abs() + 0.1)
    out = poisoned(rows, 200)
    linear_fp8(x8, x_scales, weight, scales, out, tile)
    wanted = (x8.double() * x_scales.double().repeat_interleave(GROUP, 1)) @ meant.T
    assert relative_error(out, wanted) < TOLERANCE[HALF]


@pytest.mark.parametrize("rows", [1, 7])
def test_fp8_takes_rows_that_are_not_quantised_yet(rows: int) -> None:
    weight, scales, meant = fp8_weight(256, 384)
    x, out = random(rows, 384), poisoned(rows, 256)
    linear_fp8(x, None, weight, scales, out)
    assert relative_error(out, x.double() @ meant.T) < FP8_TOLERANCE


@pytest.mark.skipif(not CUDA, reason="torch's block-scaled product needs a GPU")
@pytest.mark.parametrize("rows", [65, 128, 200, 1001])
def test_many_fp8_rows_give_what_their_values_stand_for(rows: int) -> None:
    weight, scales, meant = fp8_weight(512, 1024)
    x = random(rows, 1024)
    x8, x_scales, out = torch.empty_like(x, dtype=FP8), new_scales(rows, 1024, DEVICE), poisoned(rows, 512)
    quantize(x, x8, x_scales)
    linear_fp8(x8, x_scales, weight, scales, out)
    wanted = (x8.double() * x_scales.double().repeat_interleave(GROUP, 1)) @ meant.T
    assert relative_error(out, wanted) < TOLERANCE[HALF]


@pytest.mark.skipif(not CUDA, reason="the kernel needs SM90")
@pytest.mark.parametrize("rows", [17, 64, 65, 128])
@pytest.mark.parametrize(("n", "k", "parts"), [(512, 1024, 1), (136, 1152, 2), (4096, 4096, 4), (256, 512, 3)])
def test_some_fp8_rows_by_the_hopper_kernel_give_what_their_values_stand_for(
    rows: int, n: int, k: int, parts: int
) -> None:
    weight, weight_scales, wide_weight = fp8_weight(n, k)
    x = random(rows, k)
    x8, x_scales, out = torch.empty_like(x, dtype=FP8), new_scales(rows, k, DEVICE), poisoned(rows, n)
    quantize(x, x8, x_scales)
    wide = x8.double() * x_scales.double().repeat_interleave(GROUP, 1)
    partial = torch.full((1 << 20,), float("nan"), device=DEVICE).repeat(4)
    counters = torch.zeros(256, dtype=torch.int32, device=DEVICE)
    results = []
    for _ in range(2):  # a second product finds the counters as the first one did
        hopper_linear.linear_hopper(x8, x_scales, weight, weight_scales, out, parts, partial, counters)
        assert relative_error(out, wide @ wide_weight.T) < TOLERANCE[HALF]
        results.append(out.clone())
    assert torch.equal(*results)
    assert not counters.any()


def test_silu_and_product_of_many_rows_are_the_two_in_turn() -> None:
    rows, n, k = 515, 384 if CUDA else 128, 192 if CUDA else 64
    x, weight, out = random(rows, k), random(2 * n, k, seed=1) / k**0.5, poisoned(rows, n)
    assert fuses_silu(rows, weight)
    linear_silu(x, weight, out)
    both = x.double() @ weight.double().T
    assert relative_error(out, torch.nn.functional.silu(both[:, :n]) * both[:, n:]) < 2 * TOLERANCE[HALF]


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, weight = random(2, 64), random(32, 64)
    with pytest.raises(InvalidInput, match=r"linear: expected.*\(2, 31\)"):
        linear(x, weight, poisoned(2, 31))
    with pytest.raises(InvalidInput, match=r"linear_silu: expected.*\(2, 64\)"):
        linear_silu(x, weight, poisoned(2, 16))


def test_what_fp8_can_hold_is_quantised_exactly() -> None:
    wanted = random(5, 384, dtype=torch.float32).mul(100).clamp(-448, 448).to(FP8).float()
    wanted.view(5, 3, GROUP)[:, :, 7] = 448.0
    wanted[2] = 0
    out, scales = torch.empty(5, 384, dtype=FP8, device=DEVICE), new_scales(5, 384, DEVICE)
    quantize((wanted / 4).to(HALF), out, scales)
    assert scales.stride() == (1, 5)
    assert torch.equal(out.float(), wanted)
    assert (scales[[0, 1, 3, 4]] == 0.25).all()


def test_rows_quantise_to_within_half_a_step() -> None:
    x = random(9, 1024) * 10
    out, scales = torch.empty(9, 1024, dtype=FP8, device=DEVICE), new_scales(9, 1024, DEVICE)
    quantize(x, out, scales)
    step = scales.repeat_interleave(GROUP, 1) * 32  # between 256 and 448
    assert ((out.float() * scales.repeat_interleave(GROUP, 1) - x.float()).abs() <= step / 2 * 1.001).all()


def test_quantise_refuses_a_part_of_a_group() -> None:
    with pytest.raises(InvalidInput, match="multiple of 128"):
        quantize(random(2, 100), torch.empty(2, 100, dtype=FP8, device=DEVICE), new_scales(2, 100, DEVICE))
