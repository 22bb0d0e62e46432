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
def _bound(low, high, n: tl.constexpr, centre, nats: tl.constexpr, spread, scale, SHIFT: tl.constexpr):
    """The n-th of 7 keys that divide (low, high): evenly, or some nats away from a centre."""
    evenly = low + n * ((high - low + 7) // 8)
    around = key_of(centre + nats / scale, SHIFT).to(tl.int64)
    key = tl.where(spread, tl.maximum(around, low + 1), evenly)
    return tl.minimum(key, tl.maximum(high - 1, low + 1))


@triton.jit
def search(line, area, listed, low, high, wanted, by_mass, top, scale, SHIFT: tl.constexpr, TILE: tl.constexpr):
    """The largest key in [low, high) from which on the listed logits reach `wanted` (fp32) in mass, or in number.

    Those from `low` on are known to reach it, those from `high` on not to. Each pass over the list measures from 7 keys
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
        k1 = _bound(a, b, 1, centre, -0.5, spread, scale, SHIFT)
        k2 = _bound(a, b, 2, centre, -0.12, spread, scale, SHIFT)
        k3 = _bound(a, b, 3, centre, -0.03, spread, scale, SHIFT)
        k4 = _bound(a, b, 4, centre, 0.0, spread, scale, SHIFT)
        k5 = _bound(a, b, 5, centre, 0.03, spread, scale, SHIFT)
        k6 = _bound(a, b, 6, centre, 0.12, spread, scale, SHIFT)
        k7 = _bound(a, b, 7, centre, 0.5, spread, scale, SHIFT)
        v1 = value_of(k1.to(tl.int32), SHIFT)
        v2 = value_of(k2.to(tl.int32), SHIFT)
        v3 = value_of(k3.to(tl.int32), SHIFT)
        v4 = value_of(k4.to(tl.int32), SHIFT)
        v5 = value_of(k5.to(tl.int32), SHIFT)
        v6 = value_of(k6.to(tl.int32), SHIFT)
        v7 = value_of(k7.to(tl.int32), SHIFT)
        m1 = tl.zeros([TILE * (GROUP // 8)], tl.float32)
        m2 = m1
        m3 = m1
        m4 = m1
        m5 = m1
        m6 = m1
        m7 = m1
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
        # The highest key that reaches the goal, and the one after it.
        r1 = tl.sum(m1, 0) >= goal
        r2 = tl.sum(m2, 0) >= goal
        r3 = tl.sum(m3, 0) >= goal
        r4 = tl.sum(m4, 0) >= goal
        r5 = tl.sum(m5, 0) >= goal
        r6 = tl.sum(m6, 0) >= goal
        r7 = tl.sum(m7, 0) >= goal
        b = tl.where(r7, b, tl.where(r6, k7, tl.where(r5, k6, tl.where(r4, k5, tl.where(r3, k4, b)))))
        b = tl.where(r7 | r6 | r5 | r4 | r3, b, tl.where(r2, k3, tl.where(r1, k2, k1)))
        a = tl.where(r4, k4, tl.where(r3, k3, tl.where(r2, k2, tl.where(r1, k1, a))))
        a = tl.where(r7, k7, tl.where(r6, k6, tl.where(r5, k5, a)))
        if sampling:
            near_low = a
            near_high = b
            centre = value_of(a.to(tl.int32), SHIFT)
            spread = b - a <= (1 << (18 - SHIFT))
            sampling = spread == 0
        else:
            low = a
            high = b
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
