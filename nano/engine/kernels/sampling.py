"""Sampling on the device: from logits to one token a row, without a sort and without the host.

Two kernels. The scan reads every logit once and writes each group's largest and its mass; the choice, one program a
row, works on those and reads only the groups that matter. Semantics and random bits are those of the CPU's sampler
(csrc/cpu/sampling.h): given equal logits both choose the same token, up to the rounding of sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import triton
import triton.language as tl

from nano.engine.kernels.selection import (
    GROUP,
    SEEN,
    key_at_least,
    key_of,
    kth_largest,
    lowest_key,
    make_list,
    mass_from,
    search,
    split_at,
    value_of,
    values_at,
    weight_of,
)
from nano.errors import InvalidInput

MAX_LOGPROBS = 20


@dataclass(frozen=True)
class SamplingArrays:
    """One entry a row, on the device."""

    temperature: torch.Tensor  # fp32; 0: the smallest id among the largest logits
    top_p: torch.Tensor  # fp32; >= 1: off
    top_k: torch.Tensor  # int32; 0: off
    min_p: torch.Tensor  # fp32; 0: off
    seeds: torch.Tensor  # int64, the bits of a uint64; the noise is a function of (seed, position) alone
    positions: torch.Tensor  # int32


@dataclass(frozen=True)
class Penalties:
    counts: torch.Tensor  # int16 [slots, vocab]: outputs so far (at most 32767), and the sign bit: also in the prompt
    slots: torch.Tensor  # int32 [rows]; -1: no penalties for this row
    repetition: torch.Tensor  # fp32 [rows]; 1: off
    presence: torch.Tensor  # fp32 [rows]; 0: off
    frequency: torch.Tensor  # fp32 [rows]; 0: off

    @staticmethod
    def count(prompt: torch.Tensor, outputs: torch.Tensor, row: torch.Tensor) -> None:
        """Sets a row of `counts` (int16 [vocab]) for a request's tokens, 1-D int64 on the row's device."""
        row.zero_()
        row.index_add_(0, outputs, torch.ones_like(outputs, dtype=torch.int16))
        row[prompt] |= SEEN.value


@dataclass(frozen=True)
class LogitBias:
    """Added to the logits first. A row's ids differ from each other."""

    row_start: torch.Tensor  # int32 [rows + 1]: the row's part of what follows
    ids: torch.Tensor  # int32 [room]
    values: torch.Tensor  # fp32 [room]
    saved: torch.Tensor  # fp32 [room], scratch: the logits without


@dataclass(frozen=True)
class Logprobs:
    """Of the model's own distribution: before bias, penalties and temperature."""

    wanted: torch.Tensor  # int32 [rows]; -1: none, else how many of the most probable (at most `ids`' width)
    token: torch.Tensor  # out, fp32 [rows]: the chosen token's
    ids: torch.Tensor  # out, int32 [rows, n]: the most probable, best first (ties: smaller id); -1: no more that can be
    values: torch.Tensor  # out, fp32 [rows, n]: theirs


@triton.jit
def _line(logits, stride, vocab, row, counts, slots, repetition, presence, frequency):
    at = logits + row.to(tl.int64) * stride
    line = (at, vocab, at, 1.0, 0.0, 0.0)
    if counts is not None:
        slot = tl.load(slots + row).to(tl.int64)
        # Without a slot the penalties are neutral, whatever the counts say.
        none = slot < 0
        factor = tl.where(none, 1.0, tl.load(repetition + row))
        often = tl.where(none, 0.0, tl.load(frequency + row))
        present = tl.where(none, 0.0, tl.load(presence + row))
        line = (at, vocab, counts + tl.maximum(slot, 0) * vocab, factor, often, present)
    return line


@triton.jit(do_not_specialize=["groups"])
def _scan(
    logits, stride, vocab, groups,
    temperature,  # null: 1 for every row
    wanted,  # rows with a negative entry are left out, unless null
    maxima, sums,  # fp32 [rows, groups]
    counts, slots, repetition, presence, frequency,
    TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)
    active = True
    if wanted is not None:
        active = tl.load(wanted + row) >= 0
    if active:
        line = _line(logits, stride, vocab, row, counts, slots, repetition, presence, frequency)
        group = tl.program_id(0) * TILE + tl.arange(0, TILE)
        ids = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        x = values_at(line, ids, ids < vocab)
        top = tl.max(x, 1)
        nan = tl.max((x != x).to(tl.int32), 1) > 0
        at = row.to(tl.int64) * groups + group
        tl.store(maxima + at, tl.where(nan, float("nan"), top), mask=group < groups)
        scale = 1.0
        if temperature is not None:
            scale = tl.div_rn(1.0, tl.load(temperature + row))
        if scale < float("inf"):
            mass = tl.sum(weight_of(x, top[:, None], scale), 1)
            tl.store(sums + at, mass, mask=group < groups)


@triton.jit
def _uniform(seed, position):
    """In [0, 1) with 53 bits: two words of Philox4x32-10 at counter (position, 0, 0, 0) and key (seed)."""
    a, b, _, _ = tl.randint4x(seed, position)
    high = (a.to(tl.uint32, bitcast=True) >> 5).to(tl.float64)
    low = (b.to(tl.uint32, bitcast=True) >> 6).to(tl.float64)
    return (high * 67108864.0 + low) / 9007199254740992.0


@triton.jit
def _first_beyond(mass, target):
    """The first place at which the running sum of mass (fp64) exceeds the target, and the sum before it.

    Rounding may leave the target beyond the end: then it is the last place that has any mass.
    """
    place = tl.arange(0, mass.shape[0])
    beyond = (tl.cumsum(mass, 0) > target) & (mass > 0.0)
    first = tl.min(tl.where(beyond, place, mass.shape[0]), 0)
    last = tl.max(tl.where(mass > 0.0, place, 0), 0)
    first = tl.where(first < mass.shape[0], first, last)
    return first, tl.sum(tl.where(place < first, mass, 0.0), 0)


@triton.jit
def _draw(line, group, before, target, key, ties, top, scale, SHIFT: tl.constexpr):
    """The token in this group at which the kept mass exceeds the target; `before` of it is in the groups before.

    Kept are the logits above the key and the first `ties` in this group that equal it.
    """
    offset = tl.arange(0, GROUP)
    ids = group * GROUP + offset
    x = values_at(line, ids, ids < line[1])
    keys = key_of(x, SHIFT)
    equal = (keys == key).to(tl.int32)
    kept = (keys > key) | ((equal > 0) & (tl.cumsum(equal, 0) <= ties))
    mass = tl.where(kept, weight_of(x, top, scale), 0.0).to(tl.float64)
    place, _ = _first_beyond(mass, target - before)
    return group * GROUP + place


@triton.jit
def _nucleus_bound(
    line, area, keys, mass, target, top, scale, groups, reach, SHIFT: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """A key from which on the logits have at least the target's mass: of the `reach` highest groups, 8 times as many,
    and so on; the lowest key when these are all."""
    lowest = lowest_key(SHIFT)
    bound = lowest
    looking = reach <= groups
    while looking:
        bound = kth_largest(keys, reach, lowest, key_of(top, SHIFT) + 1)
        looking = bound > lowest
        # The groups' whole mass says quickly when it is not enough.
        if looking & (tl.sum(tl.where(keys >= bound, mass, 0.0), 0) >= target):
            listed = make_list(area, keys, bound)
            looking = mass_from(line, area, listed, bound, top, scale, SHIFT, TILE) < target
        if looking:
            reach = reach * 8
            looking = reach <= groups
            bound = lowest
    return bound


@triton.jit
def _cut(
    line, area, keys, mass, total, top, scale, k, p, floor, groups, wide_k, SHIFT: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """Lists the groups that hold what is kept; returns (their number, the last key kept, how many equal to it).

    keys: of the groups' largest; mass: theirs; total: the row's; floor: the key from which on min_p keeps.
    """
    lowest = lowest_key(SHIFT)
    top_key = key_of(top, SHIFT)
    few = (k > 0) & (k < line[1])
    nucleus = p < 1.0
    bound = floor
    if few:
        bound = lowest
        if k <= groups:  # k groups reach the bound, hence at least k logits
            bound = kth_largest(keys, k, lowest, top_key + 1)
    elif nucleus:
        bound = _nucleus_bound(line, area, keys, mass, p * total, top, scale, groups, wide_k, SHIFT, TILE)
    listed = make_list(area, keys, bound)
    last = bound
    ties = line[1]
    if few:
        last = search(line, area, listed, bound, top_key + 1, k.to(tl.float32), False, top, scale, SHIFT, TILE)
        above, over, equal = split_at(line, area, listed, last, top, scale, SHIFT, TILE)
        ties = tl.minimum(k - above, equal)
        total = over + ties.to(tl.float32) * weight_of(value_of(last, SHIFT), top, scale)
    if nucleus:
        target = p * total
        cut = search(line, area, listed, last, top_key + 1, target, True, top, scale, SHIFT, TILE)
        above, over, equal = split_at(line, area, listed, cut, top, scale, SHIFT, TILE)
        each = weight_of(value_of(cut, SHIFT), top, scale)
        needed = tl.where(each > 0.0, tl.ceil((target - over) / each), 1.0)
        needed = tl.minimum(tl.maximum(needed, 1.0), equal.to(tl.float32)).to(tl.int32)
        ties = tl.where(cut == last, tl.minimum(needed, ties), needed)
        last = cut
    if (floor > last) | ((few | nucleus) == 0):
        last = tl.maximum(floor, last)
        ties = line[1]
        split_at(line, area, listed, last, top, scale, SHIFT, TILE)
    return listed, last, ties


@triton.jit(do_not_specialize=["groups", "wide_k"])
def _choose(
    logits, stride, vocab, groups, temperature, top_p, top_k, min_p, seeds, positions, maxima, sums, lists, masses,
    ties, counts, slots, repetition, presence, frequency, errors, out, wide_k,
    SHIFT: tl.constexpr, GROUPS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    line = _line(logits, stride, vocab, row, counts, slots, repetition, presence, frequency)
    at = row.to(tl.int64) * groups
    place = tl.arange(0, GROUPS)
    largest = tl.load(maxima + at + place, mask=place < groups, other=float("-inf"))
    top = tl.max(largest, 0)
    nan = tl.max((largest != largest).to(tl.int32), 0)
    scale = tl.div_rn(1.0, tl.load(temperature + row))
    token = 0
    if (nan > 0) | (tl.abs(top) == float("inf")):
        tl.atomic_add(errors, 1)
    elif scale == float("inf"):
        group = tl.min(tl.where(largest == top, place, GROUPS), 0)
        offset = tl.arange(0, GROUP)
        ids = group * GROUP + offset
        x = values_at(line, ids, ids < vocab)
        token = group * GROUP + tl.min(tl.where(x == top, offset, GROUP - 1), 0)
    else:
        u = _uniform(tl.load(seeds + row), tl.load(positions + row))
        k = tl.load(top_k + row)
        p = tl.load(top_p + row)
        least = tl.load(min_p + row)
        mass = tl.load(sums + at + place, mask=place < groups, other=0.0).to(tl.float64)
        mass *= weight_of(largest, top, scale).to(tl.float64)
        total = tl.sum(mass, 0)
        if ((k > 0) & (k < vocab)) | (p < 1.0) | (least > 0.0):
            area = (lists + at, masses + at, ties + at)
            keys = tl.where(place < groups, key_of(largest, SHIFT), -2147483648)
            floor = lowest_key(SHIFT)
            if least > 0.0:
                bound = top.to(tl.float64) + tl.log(least.to(tl.float64)) / scale.to(tl.float64)
                floor = tl.minimum(key_at_least(bound, SHIFT), key_of(top, SHIFT))
            listed, last, kept = _cut(
                line,
                area,
                keys,
                mass.to(tl.float32),
                total.to(tl.float32),
                top,
                scale,
                k,
                p,
                floor,
                groups,
                wide_k,
                SHIFT,
                TILE,
            )
            equal = tl.load(area[2] + place, mask=place < listed, other=0)
            before = tl.cumsum(equal, 0) - equal
            left = kept - before
            mass = tl.load(area[1] + place, mask=place < listed, other=0.0).to(tl.float64)
            each = weight_of(value_of(last, SHIFT), top, scale).to(tl.float64)
            mass += tl.minimum(tl.maximum(left, 0), equal).to(tl.float64) * each
            target = u * tl.sum(mass, 0)
            where, below = _first_beyond(mass, target)
            left_there = tl.sum(tl.where(place == where, left, 0), 0)
            group = tl.load(area[0] + where)
            token = _draw(line, group, below, target, last, left_there, top, scale, SHIFT)
        else:
            target = u * total
            group, below = _first_beyond(mass, target)
            token = _draw(line, group, below, target, -2147483648, 0, top, scale, SHIFT)
    tl.store(out + row, token)
    if counts is not None:
        slot = tl.load(slots + row).to(tl.int64)
        if slot >= 0:
            cell = counts + slot * vocab + token
            held = tl.load(cell)
            tl.store(cell, tl.where((held & 0x7FFF) == 0x7FFF, held, held + 1))


@triton.jit
def _bias(logits, stride, row_start, ids, values, saved, UNDO: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    begin = tl.load(row_start + row)
    end = tl.load(row_start + row + 1)
    for start in range(begin, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        mask = at < end
        cell = logits + row.to(tl.int64) * stride + tl.load(ids + at, mask=mask, other=0)
        if UNDO:
            tl.store(cell, tl.load(saved + at, mask=mask).to(logits.dtype.element_ty), mask=mask)
        else:
            old = tl.load(cell, mask=mask).to(tl.float32)
            tl.store(saved + at, old, mask=mask)
            biased = old + tl.load(values + at, mask=mask)
            tl.store(cell, biased.to(logits.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["groups", "width"])
def _logprobs(
    logits, stride, vocab, groups, tokens, wanted, maxima, sums, lists, token_out, ids_out, values_out, width,
    SHIFT: tl.constexpr, GROUPS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    count = tl.load(wanted + row)
    if count >= 0:
        line = _line(logits, stride, vocab, row, None, None, None, None, None)
        at = row.to(tl.int64) * groups
        place = tl.arange(0, GROUPS)
        largest = tl.load(maxima + at + place, mask=place < groups, other=float("-inf"))
        top = tl.max(largest, 0)
        mass = tl.load(sums + at + place, mask=place < groups, other=0.0).to(tl.float64)
        mass *= weight_of(largest, top, 1.0).to(tl.float64)
        norm = top + tl.log(tl.sum(mass, 0)).to(tl.float32)
        tl.store(token_out + row, tl.load(line[0] + tl.load(tokens + row)).to(tl.float32) - norm)
        count = tl.minimum(tl.minimum(count, width), vocab)
        if count > 0:
            keys = tl.where(place < groups, key_of(largest, SHIFT), -2147483648)
            lowest = lowest_key(SHIFT)
            bound = lowest
            if count <= groups:
                bound = kth_largest(keys, count, lowest, key_of(top, SHIFT) + 1)
            area = (lists + at, maxima, maxima)
            listed = make_list(area, keys, bound)
            # Value and id in one number: the larger is the more probable, and no two are equal.
            edge = tl.full([], 9223372036854775807, tl.int64)
            for n in range(count):
                best = tl.full([TILE], -9223372036854775808, tl.int64)
                for tile in range(tl.cdiv(listed, TILE)):
                    rank = tile * TILE + tl.arange(0, TILE)
                    group = tl.load(area[0] + rank, mask=rank < listed, other=0)
                    ids = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
                    inside = (rank < listed)[:, None] & (ids < vocab)
                    x = values_at(line, ids, inside)
                    whole = key_of(x, 0).to(tl.int64) * 4294967296 + (2147483647 - ids)
                    best = tl.maximum(best, tl.max(tl.where(inside & (whole < edge), whole, -9223372036854775808), 1))
                edge = tl.max(best, 0)
                key = (edge >> 32).to(tl.int32)
                token = 2147483647 - (edge & 0xFFFFFFFF).to(tl.int32)
                tl.store(ids_out + row * width + n, tl.where(key > lowest_key(0), token, -1))
                tl.store(values_out + row * width + n, value_of(key, 0) - norm)


class Sampler:
    """Scratch for `sample`. `errors` (int32 [1], on the device, zero; own memory unless given) counts the rows whose
    logits held a NaN or had no finite largest value: their token is 0."""

    WIDE_K = 64  # groups that a nucleus is first looked for in
    TILE = 64
    SCAN_TILE = 32
    CHOICE: ClassVar[dict[str, int]] = {"num_warps": 16}

    def __init__(self, max_rows: int, vocab: int, device: torch.device, errors: torch.Tensor | None = None) -> None:
        if not 1 <= vocab < 2**31 - 2**16:
            raise InvalidInput(f"sampler: vocab: expected 1 to 2^31 - 2^16, got {vocab}")
        self.max_rows, self.vocab = max_rows, vocab
        self.groups = triton.cdiv(vocab, GROUP.value)
        self.errors = torch.zeros(1, dtype=torch.int32, device=device) if errors is None else errors
        room = (max_rows, self.groups)
        self._maxima, self._sums, self._masses = (
            torch.empty(room, dtype=torch.float32, device=device) for _ in range(3)
        )
        self._lists, self._ties = (torch.empty(room, dtype=torch.int32, device=device) for _ in range(2))

    def sample(
        self,
        logits: torch.Tensor,
        params: SamplingArrays,
        tokens_out: torch.Tensor,
        *,
        penalties: Penalties | None = None,
        bias: LogitBias | None = None,
        logprobs: Logprobs | None = None,
    ) -> None:
        """One token a row into tokens_out (int32 [rows]). logits: [rows, vocab], bf16 or fp32; left as they were.

        softmax(logits / temperature) of the top_k most probable tokens (ties: smaller id), of those the fewest whose
        mass reaches top_p of theirs (at least one), of those the ones at least min_p as probable as the most probable,
        and one draw. Before: bias is added, then the penalties apply, and the chosen token is counted in
        `penalties.counts`.
        """
        rows, vocab = logits.shape
        if rows > self.max_rows or vocab != self.vocab or logits.stride(1) != 1:
            raise InvalidInput(
                f"sample: logits: expected at most {self.max_rows} contiguous rows of {self.vocab}, got "
                f"{tuple(logits.shape)} with strides {logits.stride()}"
            )
        if rows == 0:
            return
        shift = 16 if logits.dtype == torch.bfloat16 else 0
        stride, groups = logits.stride(0), self.groups
        width = max(triton.next_power_of_2(groups), 128)
        table: tuple[torch.Tensor | None, ...] = (None,) * 5
        if penalties is not None:
            p = penalties
            table = (p.counts, p.slots, p.repetition, p.presence, p.frequency)
        scan_grid = (triton.cdiv(groups, self.SCAN_TILE), rows)
        if bias is not None:
            edits = (logits, stride, bias.row_start, bias.ids, bias.values, bias.saved)
            _bias[(rows,)](*edits, UNDO=False, BLOCK=256)
        _scan[scan_grid](
            logits, stride, vocab, groups, params.temperature, None, self._maxima, self._sums, *table,
            TILE=self.SCAN_TILE, num_warps=4,
        )  # fmt: skip
        _choose[(rows,)](
            logits, stride, vocab, groups, params.temperature, params.top_p, params.top_k, params.min_p, params.seeds,
            params.positions, self._maxima, self._sums, self._lists, self._masses, self._ties, *table, self.errors,
            tokens_out, self.WIDE_K, SHIFT=shift if penalties is None else 0, GROUPS=width, TILE=self.TILE,
            **self.CHOICE,
        )  # fmt: skip
        if bias is not None:
            _bias[(rows,)](*edits, UNDO=True, BLOCK=256)
        if logprobs is not None:
            _scan[scan_grid](
                logits, stride, vocab, groups, None, logprobs.wanted, self._maxima, self._sums, *(None,) * 5,
                TILE=self.SCAN_TILE, num_warps=4,
            )  # fmt: skip
            _logprobs[(rows,)](
                logits, stride, vocab, groups, tokens_out, logprobs.wanted, self._maxima, self._sums, self._lists,
                logprobs.token, logprobs.ids, logprobs.values, logprobs.ids.shape[1], SHIFT=shift, GROUPS=width,
                TILE=self.TILE, num_warps=8,
            )  # fmt: skip
