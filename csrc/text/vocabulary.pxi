# Token id -> bytes, in one run of memory.

cdef class Vocabulary:
    cdef readonly Py_ssize_t size
    cdef bytes data
    cdef uint32_t* offsets  # [size + 1]

    def __cinit__(self, list id_to_bytes):
        cdef Py_ssize_t i
        cdef uint32_t offset = 0
        self.size = len(id_to_bytes)
        self.data = b"".join(id_to_bytes)
        self.offsets = <uint32_t*> malloc(<size_t> (self.size + 1) * sizeof(uint32_t))
        if self.offsets == NULL:
            raise MemoryError("vocabulary: no memory for its offsets")
        for i in range(self.size):
            self.offsets[i] = offset
            offset += <uint32_t> len(id_to_bytes[i])
        self.offsets[self.size] = offset

    def __dealloc__(self):
        free(self.offsets)

    def __len__(self):
        return self.size


def pack_ids(list ids, long long vocab_size):
    cdef Py_ssize_t i, n = len(ids)
    cdef long long token
    cdef bytes packed = PyBytes_FromStringAndSize(NULL, n * 4)
    cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(packed)
    for i in range(n):
        token = ids[i]
        if token < 0 or token >= vocab_size:
            raise ValueError(f"token id at {i}: expected 0 to {vocab_size - 1}, got {token}")
        out[0] = <uint8_t> (token & 0xFF)
        out[1] = <uint8_t> ((token >> 8) & 0xFF)
        out[2] = <uint8_t> ((token >> 16) & 0xFF)
        out[3] = <uint8_t> ((token >> 24) & 0xFF)
        out += 4
    return packed
