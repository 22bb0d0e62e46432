#pragma once

#include <cstddef>

#include "cpu/attention.h"
#include "cpu/kernels/table.h"

namespace nano::cpu {

inline constexpr std::int64_t kSpan = 256;     // positions of one softmax; spans begin at its multiples
inline constexpr std::int64_t kTaskRows = 64;  // query rows of a task at most: (query tokens) x (heads of a KV head)

// Query tokens [begin, end) of a sequence, for the heads of one KV head.
struct AttentionTask {
  std::int32_t seq, kv_head;
  std::int32_t begin, end;  // counted from the sequence's first row
  std::int32_t span;        // the only span to do, or -1: all
  std::int32_t partials;    // of a sequence done by spans: index of its partials in the caller's buffer
};

struct AttentionKernels {
  // Floats of working memory that a task needs.
  std::int64_t (*scratch)(const Attention& call);
  // Floats of one row's partial result over a span: largest score, sum of weights, weighted values.
  std::int64_t (*partial_size)(const Attention& call);
  // The rest is indexed by DType. A whole task, to out.
  void (*whole[2])(const Attention& call, const AttentionTask& task, float* scratch);
  // One span of a task with one query token; partials: [heads of a KV head, partial_size].
  void (*span[2])(const Attention& call, const AttentionTask& task, float* scratch, float* partials);
  // Merges partials [spans, heads of a KV head, partial_size] in order, to out.
  void (*merge[2])(const Attention& call, const AttentionTask& task, std::int64_t spans, const float* partials,
                   float* scratch);
};
NANO_DECLARE_TABLE(AttentionKernels, attention_kernels)

}  // namespace nano::cpu
