# UTF-8, one byte at a time; what is not UTF-8 becomes U+FFFD exactly as bytes.decode(errors="replace") does it:
# one for each longest prefix of a well-formed sequence (Unicode 15, section 3.9, table 3-7 and "U+FFFD substitution").

cdef struct Utf8:
    uint8_t pending[4]  # the bytes so far of an unfinished code point
    int size
    int need  # how many more bytes it takes
    uint8_t low  # the range of the next byte
    uint8_t high


cdef inline int utf8_replace(Utf8* state, Buffer* out) except -1:
    state.size = state.need = 0
    return buffer_append(out, <const uint8_t*> b"\xef\xbf\xbd", 3)


cdef inline int utf8_push(Utf8* state, uint8_t byte, Buffer* out) except -1:
    """Appends to `out` the code points that `byte` completes."""
    if state.need:
        if state.low <= byte <= state.high:
            state.pending[state.size] = byte
            state.size += 1
            state.need -= 1
            state.low = 0x80
            state.high = 0xBF
            if state.need == 0:
                buffer_append(out, state.pending, <size_t> state.size)
                state.size = 0
            return 0
        utf8_replace(state, out)
    if byte < 0x80:
        return buffer_append(out, &byte, 1)
    if byte < 0xC2 or byte > 0xF4:
        return utf8_replace(state, out)
    state.pending[0] = byte
    state.size = 1
    state.low = 0xA0 if byte == 0xE0 else 0x90 if byte == 0xF0 else 0x80
    state.high = 0x9F if byte == 0xED else 0x8F if byte == 0xF4 else 0xBF
    state.need = 1 if byte < 0xE0 else 2 if byte < 0xF0 else 3
    return 0


cdef inline int utf8_finish(Utf8* state, Buffer* out) except -1:
    if state.need:
        utf8_replace(state, out)
    return 0
