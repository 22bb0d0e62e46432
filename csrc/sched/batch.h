// One step's work as flat arrays, allocated once.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "sched/request.h"

namespace nano {

// S sequences, T tokens in all, R <= S of the sequences sample a token.
class Batch {
 public:
  Batch(std::int32_t max_tokens, std::int32_t max_seqs, std::int32_t max_width, std::int32_t block_size);

  // The requests' planned tokens, in the order given.
  void fill(std::int64_t step, std::span<Request* const> plan);
  // The request of a sampled row. Throws kInvalidInput for another row, and after the step's commit.
  const Request& sampled(std::int32_t row) const;
  void committed() { committed_ = true; }

  std::int64_t step = 0;
  std::int32_t num_seqs = 0;
  std::int32_t num_tokens = 0;
  std::int32_t num_samples = 0;
  std::int32_t width = 0;                        // W, blocks in the widest table
  std::vector<std::uint64_t> ids;                // [S]
  std::vector<std::int32_t> token_ids;           // [T] 0 where token_sources says otherwise
  std::vector<std::int32_t> token_sources;       // [T] -1, or the token is the one of this row of the step before
  std::vector<std::int32_t> positions;           // [T]
  std::vector<std::int64_t> slots;               // [T] block * block_size + offset
  std::vector<std::int32_t> cu_query;            // [S + 1]
  std::vector<std::int32_t> context_lens;        // [S] tokens in the cache after this step
  std::unique_ptr<std::int32_t[]> block_tables;  // [S, W]
  std::vector<std::int32_t> sample_rows;         // [R] index into the T tokens
  std::vector<std::int32_t> sample_seqs;         // [R] index into the S sequences
  std::vector<std::int32_t> sample_positions;    // [R]
  std::vector<float> temperature;                // [R]
  std::vector<float> top_p;                      // [R]
  std::vector<std::int32_t> top_k;               // [R]
  std::vector<float> min_p;                      // [R]
  std::vector<float> repetition_penalty;         // [R]
  std::vector<float> presence_penalty;           // [R]
  std::vector<float> frequency_penalty;          // [R]
  std::vector<std::int32_t> num_logprobs;        // [R]
  std::vector<std::uint64_t> seeds;              // [R]
  std::vector<std::int32_t> penalized;           // the rows of R whose logits depend on the tokens before
  std::vector<std::int64_t> bias_start;          // [R + 1] each row's part of what follows
  std::vector<std::int32_t> bias_ids;
  std::vector<float> bias_values;
  std::vector<std::uint64_t> preempted;  // since the step before

 private:
  // What a row of block_tables holds: only what differs from the step before is written.
  struct Row {
    std::uint64_t table = 0;
    std::int32_t filled = 0;  // blocks; zeros follow up to the width
  };

  // Whose sampling parameters a row has: they are written only where that changes.
  struct Sampled {
    const Request* request = nullptr;
    std::uint64_t table = 0;
  };

  void fill_sampling(const Request& request, std::int32_t row);
  void fill_adjustments(const Options& options, std::int32_t row);
  void fill_tables(std::span<Request* const> plan, std::size_t widest);

  std::int32_t block_size_;
  bool committed_ = true;
  std::vector<Row> rows_;
  std::vector<Sampled> sampled_;  // [R]
};

// What a commit changed: one row a sampled token, in the order of Batch::sample_seqs.
struct Committed {
  explicit Committed(std::int32_t max_seqs);
  void append(std::uint64_t id, std::int32_t index, std::int32_t token, Finish end, std::int32_t hits);

  std::int32_t count = 0;             // R
  std::vector<std::uint64_t> ids;     // [R]
  std::vector<std::int32_t> indices;  // [R] place among the request's outputs, from 0
  std::vector<std::int32_t> tokens;   // [R]
  std::vector<std::uint8_t> finish;   // [R] a Finish
  std::vector<std::int32_t> cached;   // [R] prompt tokens that came from the prefix cache
};

}  // namespace nano
