# cython: boundscheck=False, wraparound=False, cdivision=True
"""The router's byte loop: engine rows in, text or server-sent events out. nano/router/_text.pyi says what each does.

Everything works on UTF-8: a stop string found in the bytes is one in the text, because UTF-8 is self-synchronising.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove

include "buffer.pxi"
include "utf8.pxi"
include "stops.pxi"
include "json.pxi"
include "vocabulary.pxi"
include "words.pxi"
include "text_stream.pxi"
include "choice.pxi"
include "dispatch.pxi"
