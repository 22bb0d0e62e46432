"""Each kernel on one small problem, checked as its tests do, for tools that slow kernels down a thousandfold.

    python tests/kernels/sanitized.py [NAME ...]

Without names: all of them. scripts/sanitize_gpu.py runs each under compute-sanitizer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from kernel_device import CUDA, HALF  # first: where there is no device, kernels are interpreted

sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))
import test_activation
import test_attention
import test_linear
import test_moe
import test_norm
import test_rope
import test_sampling
import torch
from test_attention import Case

from nano.engine.kernels.linear import Tile


def decode_attention() -> None:
    test_attention.decode(Case([5, 140, 64], [1, 1, 1], dtype=HALF, head_dim=128, block_size=64))


def prefill_attention() -> None:
    test_attention.prefill(Case([40, 9], [40, 1], dtype=torch.float32))


def hopper_attention() -> None:
    test_attention.prefill(Case([130, 65], [130, 1], dtype=HALF, head_dim=128, block_size=64))


def linear() -> None:
    test_linear.test_a_product_of_few_rows_is_exact_to_its_dtype(3, 100, 208, Tile(32, 64, parts=3))
    test_linear.test_one_row_on_plain_lanes_is_exact_to_its_dtype(208)


def linear_fp8() -> None:
    test_linear.test_an_fp8_product_is_that_of_the_values_it_stands_for(1, Tile(16, 128, parts=2))


def linear_silu() -> None:
    test_linear.test_silu_and_product_of_many_rows_are_the_two_in_turn()


def hopper_linear() -> None:
    test_linear.test_some_fp8_rows_by_the_hopper_kernel_give_what_their_values_stand_for(17, 136, 1152, 2)


def experts() -> None:
    for tokens in (1, 40):
        test_moe.test_experts_give_what_each_token_s_experts_give(HALF, tokens, None, None)


def experts_fp8() -> None:
    for tokens in (1, 20):
        test_moe.test_fp8_experts_give_what_their_weights_stand_for(tokens, None, None)


def routing() -> None:
    test_moe.test_routing_is_the_softmax_s_greatest(128, 8, True, HALF)
    for pairs, count in ((40, 128), (test_moe.FEW_PAIRS + 300, 7)):
        test_moe.test_pairs_come_in_order_of_their_experts_and_their_own(pairs, count)


def norms() -> None:
    test_norm.test_rms_norm_agrees_with_float64(3, 1024, HALF)
    test_norm.test_add_rms_norm_rounds_the_sum_then_norms_it(4, 2048, HALF)
    test_norm.test_add_rms_norm_rows_takes_rows_and_leaves_the_residual(HALF)


def rope() -> None:
    test_rope.check(8, 2, 64, 16, False, HALF)
    test_rope.test_fp8_cache_takes_scaled_values()
    test_rope.test_embed_takes_rows_and_zeros_for_unknown_ids(1500, HALF)


def silu() -> None:
    test_activation.test_silu_mul_agrees_with_float64(3, 768, HALF)
    if CUDA:
        test_activation.test_quantised_silu_mul_agrees_group_by_group(768)


def quantize() -> None:
    test_linear.test_rows_quantise_to_within_half_a_step()


def sampling() -> None:
    logits = test_sampling.normal(2, 700, 4.0, HALF if CUDA else torch.float32)
    for filters in ((1.0, 0, 0.0), (0.7, 50, 0.0), (0.95, 0, 0.1)):
        assert (test_sampling.sample(logits, 0.8, *filters) >= 0).all()
    test_sampling.test_logprobs_are_of_the_raw_logits_best_first(torch.float32)


def block_copies() -> None:
    import test_block_copy
    import test_relayout

    test_block_copy.test_gather_copies_each_block_and_nothing_else(9, 2052, 4)
    test_block_copy.test_scatter_copies_each_block_and_nothing_else(33, 2064, 16)
    test_relayout.test_any_layout_is_copied_as_numpy_does(3)


KERNELS: dict[str, Callable[[], None]] = {
    kernel.__name__: kernel
    for kernel in (
        decode_attention, prefill_attention, hopper_attention, linear, linear_fp8, linear_silu, hopper_linear, experts,
        experts_fp8, routing, norms, rope, silu, quantize, sampling, block_copies,
    )
}  # fmt: skip


if __name__ == "__main__":
    for name in sys.argv[1:] or KERNELS:
        KERNELS[name]()
        print(name, flush=True)
