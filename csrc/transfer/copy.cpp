#include "transfer/copy.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nano::transfer {
namespace {

struct Choice {
  CopyFn copy;
  const char* name;
};

#if defined(__x86_64__)

// Moves to a 64-byte boundary of dst; returns how many bytes that took.
std::size_t align(void* dst, const void* src, std::size_t bytes) {
  std::size_t head = (64 - (reinterpret_cast<std::uintptr_t>(dst) & 63)) & 63;
  if (head > bytes) head = bytes;
  std::memcpy(dst, src, head);
  return head;
}

__attribute__((target("avx512f"))) void stream512(void* dst, const void* src, std::size_t bytes) {
  std::size_t at = align(dst, src, bytes);
  auto* d = static_cast<char*>(dst);
  const auto* s = static_cast<const char*>(src);
  for (; at + 256 <= bytes; at += 256) {
    _mm_prefetch(s + at + 1024, _MM_HINT_NTA);
    _mm_prefetch(s + at + 1088, _MM_HINT_NTA);
    _mm_prefetch(s + at + 1152, _MM_HINT_NTA);
    _mm_prefetch(s + at + 1216, _MM_HINT_NTA);
    const __m512i a = _mm512_loadu_si512(s + at);
    const __m512i b = _mm512_loadu_si512(s + at + 64);
    const __m512i c = _mm512_loadu_si512(s + at + 128);
    const __m512i e = _mm512_loadu_si512(s + at + 192);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(d + at), a);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(d + at + 64), b);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(d + at + 128), c);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(d + at + 192), e);
  }
  std::memcpy(d + at, s + at, bytes - at);
}

__attribute__((target("avx2"))) void stream256(void* dst, const void* src, std::size_t bytes) {
  std::size_t at = align(dst, src, bytes);
  auto* d = static_cast<char*>(dst);
  const auto* s = static_cast<const char*>(src);
  for (; at + 128 <= bytes; at += 128) {
    _mm_prefetch(s + at + 1024, _MM_HINT_NTA);
    _mm_prefetch(s + at + 1088, _MM_HINT_NTA);
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(s + at));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(s + at + 32));
    const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(s + at + 64));
    const __m256i e = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(s + at + 96));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(d + at), a);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(d + at + 32), b);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(d + at + 64), c);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(d + at + 96), e);
  }
  std::memcpy(d + at, s + at, bytes - at);
}

void stream128(void* dst, const void* src, std::size_t bytes) {
  std::size_t at = align(dst, src, bytes);
  auto* d = static_cast<char*>(dst);
  const auto* s = static_cast<const char*>(src);
  for (; at + 64 <= bytes; at += 64) {
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(s + at));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(s + at + 16));
    const __m128i c = _mm_loadu_si128(reinterpret_cast<const __m128i*>(s + at + 32));
    const __m128i e = _mm_loadu_si128(reinterpret_cast<const __m128i*>(s + at + 48));
    _mm_stream_si128(reinterpret_cast<__m128i*>(d + at), a);
    _mm_stream_si128(reinterpret_cast<__m128i*>(d + at + 16), b);
    _mm_stream_si128(reinterpret_cast<__m128i*>(d + at + 32), c);
    _mm_stream_si128(reinterpret_cast<__m128i*>(d + at + 48), e);
  }
  std::memcpy(d + at, s + at, bytes - at);
}

Choice choose() {
  if (__builtin_cpu_supports("avx512f")) return {stream512, "avx512"};
  if (__builtin_cpu_supports("avx2")) return {stream256, "avx2"};
  return {stream128, "sse2"};
}

#else

void plain(void* dst, const void* src, std::size_t bytes) {
  std::memcpy(dst, src, bytes);
}

Choice choose() {
  return {plain, "memcpy"};
}

#endif

const Choice& chosen() {
  static const Choice choice = choose();
  return choice;
}

}  // namespace

CopyFn streaming_copy() {
  return chosen().copy;
}

const char* streaming_copy_name() {
  return chosen().name;
}

void fence_stores() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace nano::transfer
