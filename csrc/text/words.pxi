# ASCII text to token ids by way of words: the split of Qwen's and Llama 3's tokenizers, and the ids of each word looked up.
#
# The pattern is, for D digits a word,
#   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,D}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+

cdef enum Kind:
    OTHER = 0
    LETTER = 1
    DIGIT = 2
    BLANK = 3  # white space that ends no line
    NEWLINE = 4


cdef uint8_t KINDS[256]


cdef void fill_kinds():
    cdef int c
    for c in range(256):
        KINDS[c] = OTHER
        if c"a" <= (c | 0x20) <= c"z" and c < 128:
            KINDS[c] = LETTER
        elif c"0" <= c <= c"9":
            KINDS[c] = DIGIT
        elif c == 0x0A or c == 0x0D:
            KINDS[c] = NEWLINE
        elif c == 0x20 or c == 0x09 or c == 0x0B or c == 0x0C:
            KINDS[c] = BLANK


fill_kinds()


cdef Py_ssize_t word_end(const uint8_t* text, Py_ssize_t i, Py_ssize_t size, int digits) noexcept:
    """Where the word that begins at i ends: the pattern's alternatives in their order."""
    cdef uint8_t kind = KINDS[text[i]]
    cdef uint8_t a, b
    cdef Py_ssize_t end = i + 1, line_end
    if text[i] == c"'" and i + 1 < size:
        a = text[i + 1] | 0x20
        if a == c"s" or a == c"t" or a == c"m" or a == c"d":
            return i + 2
        if i + 2 < size:
            b = text[i + 2] | 0x20
            if (a == c"r" and b == c"e") or (a == c"v" and b == c"e") or (a == c"l" and b == c"l"):
                return i + 3
    if kind == LETTER or (kind != NEWLINE and kind != DIGIT and end < size and KINDS[text[end]] == LETTER):
        while end < size and KINDS[text[end]] == LETTER:
            end += 1
        return end
    if kind == DIGIT:
        while end < size and end < i + digits and KINDS[text[end]] == DIGIT:
            end += 1
        return end
    if kind == OTHER or (text[i] == c" " and end < size and KINDS[text[end]] == OTHER):
        while end < size and KINDS[text[end]] == OTHER:
            end += 1
        while end < size and KINDS[text[end]] == NEWLINE:
            end += 1
        return end
    line_end = end if kind == NEWLINE else i
    while end < size and KINDS[text[end]] >= BLANK:
        end += 1
        if KINDS[text[end - 1]] == NEWLINE:
            line_end = end
    if line_end > i:
        return line_end
    if end < size and end > i + 1:
        return end - 1
    return end


cdef enum:
    LONGEST_WORD = 64  # longer ones are not kept: what is known has a bound in bytes too


cdef class Words:
    cdef dict known  # word -> packed ids
    cdef object tokenize
    cdef int digits
    cdef Py_ssize_t most

    def __cinit__(self, tokenize, int digits, Py_ssize_t most):
        self.known = {}
        self.tokenize = tokenize
        self.digits = digits
        self.most = most

    def encode(self, bytes text not None):
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(text)
        cdef Py_ssize_t i = 0, end, size = PyBytes_GET_SIZE(text)
        cdef bytes word
        cdef object found
        cdef Buffer out
        out.data = NULL
        out.size = out.capacity = 0
        try:
            buffer_reserve(&out, <size_t> size * 4 + 4)
            while i < size:
                end = word_end(data, i, size, self.digits)
                word = PyBytes_FromStringAndSize(<const char*> data + i, end - i)
                found = self.known.get(word)
                if found is None:
                    found = self.tokenize(word)
                    if len(self.known) >= self.most:
                        self.known.clear()
                    if end - i <= LONGEST_WORD:
                        self.known[word] = found
                buffer_append_bytes(&out, <bytes?> found)
                i = end
            return buffer_take(&out)
        finally:
            buffer_free(&out)
