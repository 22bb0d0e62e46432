# A growing run of bytes. Owned by one object, which calls buffer_free in its __dealloc__.

cdef struct Buffer:
    uint8_t* data
    size_t size
    size_t capacity


cdef int buffer_reserve(Buffer* buffer, size_t extra) except -1:
    cdef size_t capacity = buffer.capacity
    if buffer.size + extra <= capacity:
        return 0
    capacity = max(64, capacity * 2, buffer.size + extra)
    cdef uint8_t* data = <uint8_t*> realloc(buffer.data, capacity)
    if data == NULL:
        raise MemoryError(f"text buffer: expected {capacity} bytes, got none")
    buffer.data = data
    buffer.capacity = capacity
    return 0


cdef inline int buffer_append(Buffer* buffer, const uint8_t* data, size_t size) except -1:
    buffer_reserve(buffer, size)
    memcpy(buffer.data + buffer.size, data, size)
    buffer.size += size
    return 0


cdef inline int buffer_append_bytes(Buffer* buffer, bytes data) except -1:
    return buffer_append(buffer, <const uint8_t*> PyBytes_AS_STRING(data), <size_t> PyBytes_GET_SIZE(data))


cdef inline void buffer_drop_front(Buffer* buffer, size_t count) noexcept:
    buffer.size -= count
    if buffer.size:
        memmove(buffer.data, buffer.data + count, buffer.size)


cdef inline bytes buffer_take(Buffer* buffer):
    cdef bytes taken = PyBytes_FromStringAndSize(<char*> buffer.data, <Py_ssize_t> buffer.size)
    buffer.size = 0
    return taken


cdef inline void buffer_free(Buffer* buffer) noexcept:
    free(buffer.data)
    buffer.data = NULL
    buffer.size = buffer.capacity = 0
