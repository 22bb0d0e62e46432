# One request of one engine: its rows in order, its text out, raw or framed as server-sent events.

cdef enum Finish:
    UNFINISHED = 0
    STOP = 1
    LENGTH = 2
    FAILED = 3


cdef class Choice:
    cdef readonly uint64_t key
    cdef readonly int index
    cdef readonly uint32_t tokens
    cdef readonly uint32_t cached
    cdef readonly int finish
    cdef readonly double heard
    cdef readonly str fault
    cdef readonly object owner
    cdef public object failure
    cdef TextStream text
    cdef bytes prefix  # None: raw text
    cdef bytes suffix
    cdef Buffer out
    cdef bint touched

    def __cinit__(self, uint64_t key, int index, object owner, Vocabulary vocabulary not None, tuple stops=(),
                  bytes prefix=None, bytes suffix=None, double now=0.0):
        self.key = key
        self.index = index
        self.owner = owner
        self.heard = now
        self.text = TextStream(vocabulary, stops)
        self.prefix = prefix
        self.suffix = suffix

    def __dealloc__(self):
        buffer_free(&self.out)

    @property
    def stopped(self):
        return self.text.stopped

    cdef int write(self, size_t count) except -1:
        if count == 0:
            return 0
        if self.prefix is None:
            buffer_append(&self.out, self.text.text.data, count)
        else:
            buffer_append_bytes(&self.out, self.prefix)
            json_escape(self.text.text.data, count, &self.out)
            buffer_append_bytes(&self.out, self.suffix)
        self.text.released(count)
        return 0

    cdef int row(self, uint32_t index, int32_t token, uint8_t finish, uint32_t cached) except -1:
        if finish > FAILED:
            return self.break_off(f"finish code: expected 0 to {<int> FAILED}, got {finish}")
        if finish == FAILED:
            self.finish = FAILED
            return 0
        if token >= 0:
            if index != self.tokens:
                return self.break_off(f"output index: expected {self.tokens}, got {index}")
            if index == 0:
                self.cached = cached
            self.tokens += 1
            if finish != STOP:  # a stop token counts, but is no text
                self.write(self.text.push(token))
        elif finish == UNFINISHED:
            return self.break_off("row: expected a token or an ending, got neither")
        if finish != UNFINISHED:
            self.write(self.text.end())
            self.finish = STOP if self.text.stopped else finish
        elif self.text.stopped:
            self.finish = STOP
        return 0

    cdef int break_off(self, str fault) except -1:
        self.fault = fault
        self.finish = FAILED
        return 0

    def fail(self, failure):
        self.failure = failure
        self.finish = FAILED

    def take(self):
        return buffer_take(&self.out)


def frame(bytes prefix not None, str text not None, bytes suffix not None):
    cdef Buffer out
    cdef bytes data = text.encode()
    out.data = NULL
    out.size = out.capacity = 0
    try:
        buffer_append_bytes(&out, prefix)
        json_escape(<const uint8_t*> PyBytes_AS_STRING(data), <size_t> PyBytes_GET_SIZE(data), &out)
        buffer_append_bytes(&out, suffix)
        return buffer_take(&out)
    finally:
        buffer_free(&out)
