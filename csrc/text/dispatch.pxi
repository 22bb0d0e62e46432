# One Outputs message to the choices that its rows belong to.

cdef inline uint32_t load32(const uint8_t* at) noexcept:
    return <uint32_t> at[0] | <uint32_t> at[1] << 8 | <uint32_t> at[2] << 16 | <uint32_t> at[3] << 24


cdef inline uint64_t load64(const uint8_t* at) noexcept:
    return <uint64_t> load32(at) | <uint64_t> load32(at + 4) << 32


def dispatch(dict live not None, bytes keys not None, bytes indices not None, bytes tokens not None,
             bytes finish not None, bytes cached not None, double now, list touched not None):
    cdef Py_ssize_t i, rows = len(finish)
    if len(keys) != rows * 8 or len(indices) != rows * 4 or len(tokens) != rows * 4 or len(cached) != rows * 4:
        raise ValueError(
            f"Outputs: expected columns of {rows} rows, got {len(keys)}, {len(indices)}, {len(tokens)}, "
            f"{len(finish)}, {len(cached)} bytes"
        )
    cdef const uint8_t* key_at = <const uint8_t*> PyBytes_AS_STRING(keys)
    cdef const uint8_t* index_at = <const uint8_t*> PyBytes_AS_STRING(indices)
    cdef const uint8_t* token_at = <const uint8_t*> PyBytes_AS_STRING(tokens)
    cdef const uint8_t* finish_at = <const uint8_t*> PyBytes_AS_STRING(finish)
    cdef const uint8_t* cached_at = <const uint8_t*> PyBytes_AS_STRING(cached)
    cdef uint64_t key, last = 0
    cdef object found
    cdef Choice choice = None
    for i in range(rows):
        key = load64(key_at + 8 * i)
        if i == 0 or key != last:  # a burst has many rows of one key in a row
            last = key
            found = live.get(key)
            choice = <Choice?> found if found is not None else None
        if choice is None or choice.finish != UNFINISHED:
            continue
        choice.heard = now
        choice.row(load32(index_at + 4 * i), <int32_t> load32(token_at + 4 * i), finish_at[i], load32(cached_at + 4 * i))
        if not choice.touched:
            choice.touched = True
            touched.append(choice)


def settle(list touched not None):
    """Marks the choices as seen and returns them."""
    cdef Choice choice
    for choice in touched:
        choice.touched = False
    return touched
