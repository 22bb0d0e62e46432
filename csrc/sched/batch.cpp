#include "sched/batch.h"

#include <algorithm>

namespace nano {

Batch::Batch(std::int32_t max_tokens, std::int32_t max_seqs, std::int32_t max_width, std::int32_t block_size)
    : block_size_(block_size) {
  const auto tokens = static_cast<std::size_t>(max_tokens);
  const auto seqs = static_cast<std::size_t>(std::min(max_seqs, max_tokens));  // each has a token at least
  for (auto* array : {&token_ids, &token_sources, &positions}) array->resize(tokens);
  slots.resize(tokens);
  for (auto* array : {&context_lens, &sample_rows, &sample_seqs, &top_k, &sample_positions}) array->resize(seqs);
  cu_query.resize(seqs + 1);
  for (auto* array : {&temperature, &top_p}) array->resize(seqs);
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
  std::int32_t at = 0;
  for (std::int32_t seq = 0; seq < num_seqs; ++seq) {
    const Request& request = *plan[static_cast<std::size_t>(seq)];
    ids[seq] = request.id;
    cu_query[seq] = at;
    const std::int32_t begin = request.launched();
    const std::int32_t end = begin + request.planned;
    context_lens[seq] = end;
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
      temperature[row] = request.options.temperature;
      top_p[row] = request.options.top_p;
      top_k[row] = request.options.top_k;
      seeds[row] = request.options.seed;
      sample_positions[row] = end;
    }
  }
  cu_query[num_seqs] = num_tokens = at;
  fill_tables(plan);
}

void Batch::fill_tables(std::span<Request* const> plan) {
  std::size_t widest = 0;
  for (const Request* request : plan) widest = std::max(widest, request->blocks.size());
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
