# JSON string contents out of UTF-8 (RFC 8259, section 7). Only what must be escaped is.

cdef const char* HEX = "0123456789abcdef"


cdef int json_escape(const uint8_t* data, size_t size, Buffer* out) except -1:
    cdef size_t i
    cdef uint8_t byte
    cdef uint8_t* at
    buffer_reserve(out, size * 6)
    at = out.data + out.size
    for i in range(size):
        byte = data[i]
        if byte >= 0x20 and byte != 0x22 and byte != 0x5C:
            at[0] = byte
            at += 1
            continue
        at[0] = 0x5C
        if byte == 0x22 or byte == 0x5C:
            at[1] = byte
            at += 2
        elif byte == 0x0A:
            at[1] = c"n"
            at += 2
        elif byte == 0x0D:
            at[1] = c"r"
            at += 2
        elif byte == 0x09:
            at[1] = c"t"
            at += 2
        else:
            memcpy(at + 1, "u00", 3)
            at[4] = HEX[byte >> 4]
            at[5] = HEX[byte & 15]
            at += 6
    out.size = <size_t> (at - out.data)
    return 0
