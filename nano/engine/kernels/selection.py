"""Which of a row's logits are kept: top-k and top-p without a sort. Device functions of the sampling kernels.

A row is cut into groups of GROUP logits, whose largest values a scan has written. A *list* is the ascending ids of the
groups that reach some bound; whoever looks for the logits above that bound reads these groups alone. Logits are
compared as keys, integers in the same order. What is kept is a prefix of the order (larger first, then smaller id): all
above a key, and the first so many of those equal to it.

Arguments that travel together: `line` = (the row's logits, vocab, the row's int16 token counts, repetition, frequency,
presence), the logits again in place of the counts when there are no penalties; `area` = the row's scratch (list,
masses, ties: [groups] each).
"""

from __future__ import annotations

import triton
import triton.language as tl

GROUP = tl.constexpr(128)
SEEN = tl.constexpr(-32768)  # the bit of a token count that says: also in the prompt


@triton.jit
def values_at(line, ids, mask):
    """The logits at `ids` in fp32, with their penalties; -inf outside of the mask. No negative zeros."""
    x = tl.load(line[0] + ids, mask=mask, other=float("-inf")).to(tl.float32)
    if line[2].dtype.element_ty == tl.int16:
        held = tl.load(line[2] + ids, mask=mask, other=0).to(tl.int32)
        count = held & 0x7FFF
        x = tl.where(held == 0, x, tl.where(x > 0.0, x / line[3], x * line[3]))
        x = x - line[4] * count.to(tl.float32)
        x = tl.where(count > 0, x - line[5], x)
    return tl.where(x == 0.0, 0.0, x)


@triton.jit
def key_of(x, SHIFT: tl.constexpr):
    """An int32 in the order of x. SHIFT 16: x has bf16's precision, and so 16 bits are enough."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> SHIFT


@triton.jit
def value_of(key, SHIFT: tl.constexpr):
    full = key
    if SHIFT == 16:
        full = (key << 16) | tl.where(key < 0, 0xFFFF, 0)
    return (full ^ ((full >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def key_at_least(bound, SHIFT: tl.constexpr):
    """The smallest key of a value >= bound (fp64)."""
    near = bound.to(tl.float32)
    near = tl.where(near == 0.0, 0.0, near)
    key = key_of(near, 0)
    key = tl.where(near.to(tl.float64) < bound, key + 1, key)
    if SHIFT == 16:
        key = tl.where(key >= 0, key + 0xFFFF, key) >> 16
    return key


@triton.jit
def lowest_key(SHIFT: tl.constexpr):
    """The key of -inf."""
    return -2139095041 >> SHIFT


@triton.jit
def kth_largest(keys, k, low, high):
    """The k-th largest of keys; it is in [low, high)."""
    while high > low + 1:
        middle = (low & high) + ((low ^ high) >> 1)  # their sum may not fit
        enough = tl.sum((keys >= middle).to(tl.int32), 0) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    return low


@triton.jit
def make_list(area, keys, bound):
    """Lists the groups whose key is >= bound; returns how many."""
    chosen = keys >= bound
    place = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.debug_barrier()  # readers of the list before
    tl.store(area[0] + place, tl.arange(0, keys.shape[0]), mask=chosen)
    tl.debug_barrier()
    return tl.sum(chosen.to(tl.int32), 0)


@triton.jit
def tile_of(line, area, listed, tile, TILE: tl.constexpr):
    """The logits [TILE, GROUP] of a list's tile."""
    place = tile * TILE + tl.arange(0, TILE)
    group = tl.load(area[0] + place, mask=place < listed, other=0)
    ids = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    return values_at(line, ids, (place < listed)[:, None] & (ids < line[1]))


@triton.jit
def weight_of(x, top, scale):
    return tl.where(x > float("-inf"), tl.exp((x - top) * scale), 0.0)


@triton.jit
def strips_of(line, area, listed, tile, every, TILE: tl.constexpr):
    """The logits of a list's tile, for sums over all of it: [16 TILE, 8], so that sums over 8 stay in one thread.

    Of the list only each `every`-th group counts.
    """
    strip = tl.arange(0, TILE * (GROUP // 8))
    place = (tile * TILE + strip // (GROUP // 8)) * every
    group = tl.load(area[0] + place, mask=place < listed, other=0)
    first = group * GROUP + strip % (GROUP // 8) * 8
    ids = first[:, None] + tl.arange(0, 8)[None, :]
    return values_at(line, ids, (place < listed)[:, None] & (ids < line[1]))


@triton.jit
def mass_from(line, area, listed, bound, top, scale, SHIFT: tl.constexpr, TILE: tl.constexpr):
    """The mass of the listed logits whose key is >= bound."""
    mass = tl.zeros([TILE * (GROUP // 8)], tl.float32)
    least = value_of(bound, SHIFT)
    for tile in range(tl.cdiv(listed, TILE)):
        x = strips_of(line, area, listed, tile, 1, TILE)
        mass += tl.sum(tl.where(x >= least, weight_of(x, top, scale), 0.0), 1)
    return tl.sum(mass, 0)


@triton.jit
def _bound(low, high, n, centre, spread, scale, SHIFT: tl.constexpr):
    """The n-th of 8 keys that divide (low, high): evenly, or around a centre, 0.03 nats off and then four times as far
    each."""
    evenly = low + n * ((high - low + 8) // 9)
    nats = tl.where(n < 5, -0.03, 0.03) * tl.exp2(2.0 * tl.where(n < 5, 4 - n, n - 5).to(tl.float32))
    around = tl.maximum(key_of(centre + nats / scale, SHIFT).to(tl.int64), low + 1)
    return tl.minimum(tl.where(spread, around, evenly), tl.maximum(high - 1, low + 1))


@triton.jit
def _value_bound(low, high, n: tl.constexpr, centre, spread, scale, SHIFT: tl.constexpr):
    return value_of(_bound(low, high, tl.full([], n, tl.int32), centre, spread, scale, SHIFT).to(tl.int32), SHIFT)


@triton.jit
def search(line, area, listed, low, high, wanted, by_mass, top, scale, SHIFT: tl.constexpr, TILE: tl.constexpr):
    """The largest key in [low, high) from which on the listed logits reach `wanted` (fp32) in mass, or in number.

    Those from `low` on are known to reach it, those from `high` on not to. Each pass over the list measures from 8 keys
    on. Of a long list a sample is searched first: it says around which key the first pass had better look.
    """
    low = low.to(tl.int64)
    high = high.to(tl.int64)
    near_low = low
    near_high = high
    sampling = listed > 4 * TILE
    spread = listed < 0
    centre = top
    while high - low > 1:
        every = tl.where(sampling, listed // TILE, 1)
        tiles = tl.where(sampling, 1, tl.cdiv(listed, TILE))
        goal = tl.where(sampling, wanted * TILE / listed, wanted)
        a = tl.where(sampling, near_low, low)
        b = tl.where(sampling, near_high, high)
        v1 = _value_bound(a, b, 1, centre, spread, scale, SHIFT)
        v2 = _value_bound(a, b, 2, centre, spread, scale, SHIFT)
        v3 = _value_bound(a, b, 3, centre, spread, scale, SHIFT)
        v4 = _value_bound(a, b, 4, centre, spread, scale, SHIFT)
        v5 = _value_bound(a, b, 5, centre, spread, scale, SHIFT)
        v6 = _value_bound(a, b, 6, centre, spread, scale, SHIFT)
        v7 = _value_bound(a, b, 7, centre, spread, scale, SHIFT)
        v8 = _value_bound(a, b, 8, centre, spread, scale, SHIFT)
        m1 = tl.zeros([TILE * (GROUP // 8)], tl.float32)
        m2 = m1
        m3 = m1
        m4 = m1
        m5 = m1
        m6 = m1
        m7 = m1
        m8 = m1
        for tile in range(tiles):
            x = strips_of(line, area, listed, tile, every, TILE)
            w = tl.full(x.shape, 1.0, tl.float32)
            if by_mass:
                w = weight_of(x, top, scale)
            m1 += tl.sum(tl.where(x >= v1, w, 0.0), 1)
            m2 += tl.sum(tl.where(x >= v2, w, 0.0), 1)
            m3 += tl.sum(tl.where(x >= v3, w, 0.0), 1)
            m4 += tl.sum(tl.where(x >= v4, w, 0.0), 1)
            m5 += tl.sum(tl.where(x >= v5, w, 0.0), 1)
            m6 += tl.sum(tl.where(x >= v6, w, 0.0), 1)
            m7 += tl.sum(tl.where(x >= v7, w, 0.0), 1)
            m8 += tl.sum(tl.where(x >= v8, w, 0.0), 1)
        # One sum over threads for all: [.., 8] in the order of the keys.
        odd = tl.join(tl.join(m1, m5), tl.join(m3, m7))
        even = tl.join(tl.join(m2, m6), tl.join(m4, m8))
        sums = tl.reshape(tl.sum(tl.join(odd, even), 0), [8])
        reached = tl.max(tl.where(sums >= goal, tl.arange(1, 9), 0), 0)
        c = tl.where(reached < 8, _bound(a, b, reached + 1, centre, spread, scale, SHIFT), b)
        a = tl.where(reached > 0, _bound(a, b, reached, centre, spread, scale, SHIFT), a)
        if sampling:
            near_low = a
            near_high = c
            centre = value_of(a.to(tl.int32), SHIFT)
            spread = c - a <= (1 << (18 - SHIFT))
            sampling = spread == 0
        else:
            low = a
            high = c
            spread = listed < 0
    return low.to(tl.int32)


@triton.jit
def split_at(line, area, listed, key, top, scale, SHIFT: tl.constexpr, TILE: tl.constexpr):
    """(number above the key, their mass, number equal to it); a group's mass above and ties go to the scratch."""
    above = tl.zeros([TILE], tl.int32)
    mass = tl.zeros([TILE], tl.float32)
    equal = tl.zeros([TILE], tl.int32)
    tl.debug_barrier()  # readers of the scratch before
    for tile in range(tl.cdiv(listed, TILE)):
        x = tile_of(line, area, listed, tile, TILE)
        keys = key_of(x, SHIFT)
        over = keys > key
        group_mass = tl.sum(tl.where(over, weight_of(x, top, scale), 0.0), 1)
        group_ties = tl.sum((keys == key).to(tl.int32), 1)
        place = tile * TILE + tl.arange(0, TILE)
        tl.store(area[1] + place, group_mass, mask=place < listed)
        tl.store(area[2] + place, group_ties, mask=place < listed)
        above += tl.sum(over.to(tl.int32), 1)
        mass += group_mass
        equal += group_ties
    tl.debug_barrier()
    return tl.sum(above, 0), tl.sum(mass, 0), tl.sum(equal, 0)
