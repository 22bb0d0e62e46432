# Stop strings over a growing text: one Knuth-Morris-Pratt automaton each, so a byte costs O(1) however the text is cut.

cdef class Stops:
    """The state of a text against its stop strings. What completes first wins; of those, the longest."""

    cdef int count
    cdef list patterns  # of bytes, UTF-8
    cdef uint32_t* failure  # for all patterns in a row: the longest border of each prefix
    cdef uint32_t* starts  # where each pattern's row begins in `failure`; [count + 1]
    cdef uint32_t* matched  # how much of each pattern the text now ends with; [count]

    def __cinit__(self, tuple stops):
        cdef Py_ssize_t total = 0
        self.count = <int> len(stops)
        self.patterns = [stop.encode() for stop in stops]
        for pattern in self.patterns:
            if not pattern:
                raise ValueError("stop strings: expected one character or more, got an empty string")
            total += len(pattern)
        self.failure = <uint32_t*> malloc(<size_t> total * sizeof(uint32_t))
        self.starts = <uint32_t*> malloc(<size_t> (self.count + 1) * sizeof(uint32_t))
        self.matched = <uint32_t*> calloc(<size_t> self.count, sizeof(uint32_t))
        if self.failure == NULL or self.starts == NULL or self.matched == NULL:
            raise MemoryError("stop strings: no memory for their automaton")
        self.build()

    def __dealloc__(self):
        free(self.failure)
        free(self.starts)
        free(self.matched)

    cdef void build(self):
        cdef uint32_t start = 0, border, i, size
        cdef const uint8_t* pattern
        for p in range(self.count):
            self.starts[p] = start
            pattern = <const uint8_t*> PyBytes_AS_STRING(self.patterns[p])
            size = <uint32_t> PyBytes_GET_SIZE(self.patterns[p])
            border = 0
            self.failure[start] = 0
            for i in range(1, size):
                while border and pattern[i] != pattern[border]:
                    border = self.failure[start + border - 1]
                if pattern[i] == pattern[border]:
                    border += 1
                self.failure[start + i] = border
            start += size
        self.starts[self.count] = start

    cdef uint32_t push(self, uint8_t byte):
        """The length of the stop string that `byte` completes, or 0."""
        cdef uint32_t longest = 0, size, state
        cdef const uint8_t* pattern
        for p in range(self.count):
            pattern = <const uint8_t*> PyBytes_AS_STRING(self.patterns[p])
            size = self.starts[p + 1] - self.starts[p]
            state = self.matched[p]
            while state and pattern[state] != byte:
                state = self.failure[self.starts[p] + state - 1]
            if pattern[state] == byte:
                state += 1
            if state == size:
                longest = max(longest, size)
                state = self.failure[self.starts[p] + state - 1]
            self.matched[p] = state
        return longest

    cdef uint32_t held(self):
        """How many bytes at the text's end may still become a stop string."""
        cdef uint32_t longest = 0
        for p in range(self.count):
            longest = max(longest, self.matched[p])
        return longest
