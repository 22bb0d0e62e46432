# Token ids in, text out: only complete code points, and nothing that may still become a stop string.

cdef class TextStream:
    cdef Vocabulary vocabulary
    cdef Stops stops  # None: there are none
    cdef Utf8 utf8
    cdef Buffer text  # decoded, not released yet
    cdef size_t searched  # how much of `text` the stop strings have seen
    cdef readonly bint stopped

    def __cinit__(self, Vocabulary vocabulary not None, tuple stops=()):
        self.vocabulary = vocabulary
        self.stops = Stops(stops) if stops else None

    def __dealloc__(self):
        buffer_free(&self.text)

    cdef int search(self) except -1:
        """Cuts the text at the first stop string."""
        cdef uint32_t size
        while self.searched < self.text.size:
            size = self.stops.push(self.text.data[self.searched])
            self.searched += 1
            if size:
                self.text.size = self.searched = self.searched - size
                self.stopped = True
                break
        return 0

    cdef size_t push(self, int32_t token) except? 0:
        """Decodes one token; how many bytes of `text` are now free to go."""
        cdef const uint8_t* at
        cdef const uint8_t* end
        if self.stopped:
            return 0
        if 0 <= token < self.vocabulary.size:  # beyond: padding of the model's vocabulary, which has no text
            at = <const uint8_t*> PyBytes_AS_STRING(self.vocabulary.data)
            end = at + self.vocabulary.offsets[token + 1]
            at += self.vocabulary.offsets[token]
            while at < end:
                utf8_push(&self.utf8, at[0], &self.text)
                at += 1
        if self.stops is None:
            return self.text.size
        self.search()
        return self.text.size if self.stopped else self.text.size - self.stops.held()

    cdef size_t end(self) except? 0:
        """No more tokens: all that is left is free to go."""
        if not self.stopped:
            utf8_finish(&self.utf8, &self.text)
            if self.stops is not None:
                self.search()
        return self.text.size

    cdef void released(self, size_t count) noexcept:
        buffer_drop_front(&self.text, count)
        self.searched = self.searched - count if self.searched > count else 0

    cdef str release(self, size_t count):
        cdef str text = self.text.data[:count].decode("utf-8") if count else ""
        self.released(count)
        return text

    def feed(self, ids):
        cdef size_t count = 0
        for token in ids:
            count = self.push(token)
            if self.stopped:
                break
        return self.release(count)

    def finish(self):
        return self.release(self.end())
