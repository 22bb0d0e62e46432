#include "sched/batch.h"

#include <algorithm>

#include "base/error.h"

namespace nano {

Batch::Batch(std::int32_t max_tokens, std::int32_t max_seqs, std::int32_t max_width, std::int32_t block_size)
    : block_size_(block_size) {
  const auto tokens = static_cast<std::size_t>(max_tokens);
  const auto seqs = static_cast<std::size_t>(std::min(max_seqs, max_tokens));  // each has a token at least
  for (auto* array : {&token_ids, &token_sources, &positions}) array->resize(tokens);
  slots.resize(tokens);
  for (auto* array : {&context_lens, &sample_rows, &sample_seqs, &sample_positions, &top_k, &num_logprobs}) {
    array->resize(seqs);
  }
  cu_query.resize(seqs + 1);
  bias_start.resize(seqs + 1);
  for (auto* array : {&temperature, &top_p, &min_p, &repetition_penalty, &presence_penalty, &frequency_penalty}) {
    array->resize(seqs);
  }
  penalized.reserve(seqs);
  sampled_.resize(seqs);
  for (auto* array : {&ids, &seeds}) array->resize(seqs);
  preempted.reserve(static_cast<std::size_t>(max_seqs));
  rows_.resize(seqs);
  // Left uninitialised: only what the widest step ever uses becomes resident.
  block_tables.reset(new std::int32_t[seqs * static_cast<std::size_t>(max_width)]);
}

void Batch::fill(std::int64_t step_number, std::span<Request* const> plan) {
  step = step_number;
  num_seqs = static_cast<std::int32_t>(plan.size());
  num_samples = 0;
  committed_ = false;
  penalized.clear();
  bias_ids.clear();
  bias_values.clear();
  std::int32_t at = 0;
  std::size_t widest = 0;
  for (std::int32_t seq = 0; seq < num_seqs; ++seq) {
    const Request& request = *plan[static_cast<std::size_t>(seq)];
    ids[seq] = request.id;
    cu_query[seq] = at;
    const std::int32_t begin = request.launched();
    const std::int32_t end = begin + request.planned;
    context_lens[seq] = end;
    widest = std::max(widest, request.blocks.size());
    for (std::int32_t position = begin; position < end;) {
      const std::int32_t block = position / block_size_;
      const std::int32_t stop = std::min(end, (block + 1) * block_size_);
      std::int64_t slot =
          static_cast<std::int64_t>(request.blocks[block]) * block_size_ + (position - block * block_size_);
      for (; position < stop; ++position, ++at) {
        const bool known = position < request.total();  // else the step under way samples it
        token_ids[at] = known ? request.tokens[position] : 0;
        token_sources[at] = known ? -1 : request.sample_row;
        positions[at] = position;
        slots[at] = slot++;
      }
    }
    if (request.samples()) {
      const std::int32_t row = num_samples++;
      sample_rows[row] = at - 1;
      sample_seqs[row] = seq;
      sample_positions[row] = end;
      bias_start[row] = static_cast<std::int64_t>(bias_ids.size());
      if (sampled_[row].table != request.table) fill_sampling(request, row);
      if (request.adjusted) fill_adjustments(request.options, row);
    }
  }
  bias_start[num_samples] = static_cast<std::int64_t>(bias_ids.size());
  cu_query[num_seqs] = num_tokens = at;
  fill_tables(plan, widest);
}

void Batch::fill_sampling(const Request& request, std::int32_t row) {
  const Sampling& sampling = request.options.sampling;
  temperature[row] = sampling.temperature;
  top_p[row] = sampling.top_p;
  top_k[row] = sampling.top_k;
  min_p[row] = sampling.min_p;
  repetition_penalty[row] = sampling.repetition_penalty;
  presence_penalty[row] = sampling.presence_penalty;
  frequency_penalty[row] = sampling.frequency_penalty;
  num_logprobs[row] = sampling.logprobs;
  seeds[row] = sampling.seed;
  sampled_[row] = {&request, request.table};
}

void Batch::fill_adjustments(const Options& options, std::int32_t row) {
  if (options.sampling.penalized()) penalized.push_back(row);
  bias_ids.insert(bias_ids.end(), options.bias_ids.begin(), options.bias_ids.end());
  bias_values.insert(bias_values.end(), options.bias_values.begin(), options.bias_values.end());
}

const Request& Batch::sampled(std::int32_t row) const {
  NANO_CHECK(row >= 0 && row < num_samples, Code::kInvalidInput, "Batch: step ", step, " samples ", num_samples,
             " rows, got row ", row);
  NANO_CHECK(!committed_, Code::kInvalidInput, "Batch: step ", step, " is committed");
  return *sampled_[static_cast<std::size_t>(row)].request;
}

void Batch::fill_tables(std::span<Request* const> plan, std::size_t widest) {
  if (static_cast<std::int32_t>(widest) != width) {
    width = static_cast<std::int32_t>(widest);
    std::fill(rows_.begin(), rows_.end(), Row{0, width});
  }
  for (std::size_t seq = 0; seq < plan.size(); ++seq) {
    const std::vector<std::int32_t>& blocks = plan[seq]->blocks;
    Row& row = rows_[seq];
    std::int32_t* const out = block_tables.get() + seq * widest;
    const auto count = static_cast<std::int32_t>(blocks.size());
    const std::int32_t kept = row.table == plan[seq]->table ? row.filled : 0;
    std::copy(blocks.begin() + kept, blocks.end(), out + kept);
    if (count < row.filled) std::fill(out + count, out + row.filled, 0);
    row = {plan[seq]->table, count};
  }
}

Committed::Committed(std::int32_t max_seqs) {
  const auto seqs = static_cast<std::size_t>(max_seqs);
  ids.resize(seqs);
  for (auto* array : {&indices, &tokens, &cached}) array->resize(seqs);
  finish.resize(seqs);
}

void Committed::append(std::uint64_t id, std::int32_t index, std::int32_t token, Finish end, std::int32_t hits) {
  ids[count] = id;
  indices[count] = index;
  tokens[count] = token;
  finish[count] = static_cast<std::uint8_t>(end);
  cached[count] = hits;
  ++count;
}

}  // namespace nano
