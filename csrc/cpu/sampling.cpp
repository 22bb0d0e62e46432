#include "cpu/sampling.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "cpu/kernels/sampling.h"
#include "cpu/philox.h"
#include "cpu/work.h"

namespace nano::cpu {
namespace {

struct Candidate {
  float value;
  std::int32_t id;
};

bool more_probable(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

// Draws from one row at a time; one a thread, so that its buffers are allocated once.
class Sampler {
 public:
  // The token, or -1 when the logits have no proper largest value.
  std::int32_t sample(const SamplingKernels& kernels, const Sampling& s, std::int64_t row) {
    kernels_ = &kernels;
    n_ = s.vocab;
    x_ = adjusted(s, row);
    const std::int32_t token = draw(s, row);
    if (token >= 0 && s.logprobs.wanted != nullptr && s.logprobs.wanted[row] >= 0) {
      x_ = s.logits + row * n_;
      explain(s.logprobs, row, token);
    }
    return token;
  }

 private:
  std::int32_t draw(const Sampling& s, std::int64_t row) {
    const Top top = kernels_->top(x_, n_);
    if (top.nan || !std::isfinite(top.value)) return -1;
    scale_ = 1.0f / s.temperature[row];
    if (!std::isfinite(scale_)) return static_cast<std::int32_t>(top.id);
    top_ = top.value;

    Cut cut = {-std::numeric_limits<float>::infinity(), -1};
    const bool few = s.top_k[row] > 0 && s.top_k[row] < n_;
    if (few) cut = keep_top_k(s.top_k[row]);
    if (s.top_p[row] < 1.0f) {
      const double p = static_cast<double>(s.top_p[row]);
      cut = few ? keep_top_p(p, cut) : keep_top_p_of_all(p, cut);
    }
    if (s.min_p != nullptr && s.min_p[row] > 0.0f) cut = keep_min_p(static_cast<double>(s.min_p[row]), cut);
    return pick(uniform(s.seeds[row], static_cast<std::uint32_t>(s.positions[row])), cut);
  }

  // The row with its bias and penalties: itself when it has none, else a copy.
  const float* adjusted(const Sampling& s, std::int64_t row) {
    const float* x = s.logits + row * n_;
    const Penalties& p = s.penalties;
    const bool biased = s.bias.start != nullptr && s.bias.start[row] < s.bias.start[row + 1];
    const bool penalized = p.start != nullptr && p.start[row] < p.start[row + 1] &&
                           (p.repetition[row] != 1.0f || p.presence[row] != 0.0f || p.frequency[row] != 0.0f);
    if (!biased && !penalized) return x;
    adjusted_.assign(x, x + n_);
    if (biased)
      for (std::int64_t i = s.bias.start[row]; i < s.bias.start[row + 1]; ++i)
        adjusted_[static_cast<std::size_t>(s.bias.ids[i])] += s.bias.values[i];
    if (penalized) penalize(p, row);
    return adjusted_.data();
  }

  void penalize(const Penalties& p, std::int64_t row) {
    constexpr std::int32_t kInPrompt = 1 << 30;
    counts_.resize(static_cast<std::size_t>(n_));  // all zero between calls
    const std::int64_t begin = p.start[row], end = p.start[row + 1], outputs = begin + p.prompt_lens[row];
    const auto count = [&](std::int64_t i) -> std::int32_t& { return counts_[static_cast<std::size_t>(p.tokens[i])]; };
    for (std::int64_t i = begin; i < end; ++i) {
      if (i < outputs)
        count(i) |= kInPrompt;
      else
        ++count(i);
    }
    for (std::int64_t i = begin; i < end; ++i) {
      if (count(i) == 0) continue;  // done already
      const std::int32_t times = count(i) & ~kInPrompt;
      count(i) = 0;
      float& x = adjusted_[static_cast<std::size_t>(p.tokens[i])];
      x = x > 0.0f ? x / p.repetition[row] : x * p.repetition[row];
      x -= p.frequency[row] * static_cast<float>(times);
      if (times > 0) x -= p.presence[row];
    }
  }

  // The logprobs of `token` and of the most probable ones among x_.
  void explain(const Logprobs& to, std::int64_t row, std::int32_t token) {
    const Cut all = {-std::numeric_limits<float>::infinity(), -1};
    top_ = kernels_->top(x_, n_).value;
    scale_ = 1.0f;
    const float norm = top_ + static_cast<float>(std::log(total_mass(all)));
    to.token[row] = x_[token] - norm;
    const std::int64_t count = std::min<std::int64_t>(to.wanted[row], to.width);
    if (count == 0) return;
    keep_top_k(std::min(count, n_));
    std::sort(candidates_.begin(), candidates_.end(), more_probable);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const bool there = at < candidates_.size();
      to.ids[row * to.width + i] = there ? candidates_[at].id : -1;
      to.values[row * to.width + i] = there ? candidates_[at].value - norm : -std::numeric_limits<float>::infinity();
    }
  }

  // Of what `cut` keeps, the values that are at least p times as probable as the largest.
  Cut keep_min_p(double p, Cut cut) const {
    const double bound = static_cast<double>(top_) + std::log(p) / static_cast<double>(scale_);
    float least = static_cast<float>(bound);
    if (static_cast<double>(least) < bound) least = std::nextafter(least, std::numeric_limits<float>::infinity());
    least = std::min(least, top_);
    return least > cut.value ? Cut{least, n_ - 1} : cut;
  }

  // Leaves the k most probable in candidates_; returns the last of them. Keeps a threshold that rises as better ones
  // turn up, so that most of the row is only compared with it.
  Cut keep_top_k(std::int64_t k) {
    const std::size_t keep = static_cast<std::size_t>(k);
    const std::size_t room = keep + std::max<std::size_t>(keep, 256);
    candidates_.clear();
    ids_.resize(room);
    float threshold = -std::numeric_limits<float>::infinity();
    for (std::int64_t next = 0; next < n_;) {
      const auto found =
          kernels_->above(x_, n_, threshold, &next, ids_.data(), static_cast<std::int64_t>(room - candidates_.size()));
      for (std::int64_t i = 0; i < found; ++i) {
        const std::int32_t id = ids_[static_cast<std::size_t>(i)];
        candidates_.push_back({x_[id], id});
      }
      if (candidates_.size() > keep) {
        std::nth_element(candidates_.begin(), candidates_.begin() + (k - 1), candidates_.end(), more_probable);
        candidates_.resize(keep);
        threshold = candidates_.back().value;
      }
    }
    return last_of(std::max_element(candidates_.begin(), candidates_.end(), more_probable));
  }

  // Of candidates_, the fewest most probable whose mass reaches p of all.
  Cut keep_top_p(double p, Cut cut) {
    std::sort(candidates_.begin(), candidates_.end(), more_probable);
    double total = 0.0;
    for (const Candidate& candidate : candidates_) total += weight(candidate);
    return reach(p * total, cut);
  }

  // The same of the whole row: masses of narrow ranges of probability say in which range the last kept token is, and
  // only that range is sorted.
  Cut keep_top_p_of_all(double p, Cut cut) {
    weights_.resize(static_cast<std::size_t>(n_));
    kernels_->weights(x_, 0, n_, top_, scale_, cut, weights_.data());
    range_mass_.assign(kRanges, 0.0);
    for (std::int64_t i = 0; i < n_; ++i)
      range_mass_[range(x_[i])] += static_cast<double>(weights_[static_cast<std::size_t>(i)]);
    double total = 0.0;
    for (double mass : range_mass_) total += mass;
    double wanted = p * total;
    for (std::size_t r = 0; r < kRanges; ++r) {
      if (range_mass_[r] < wanted) {
        wanted -= range_mass_[r];
        continue;
      }
      candidates_.clear();
      for (std::int64_t i = 0; i < n_; ++i)
        if (range(x_[i]) == r) candidates_.push_back({x_[i], static_cast<std::int32_t>(i)});
      std::sort(candidates_.begin(), candidates_.end(), more_probable);
      return reach(wanted, cut);
    }
    return cut;
  }

  // The first of the sorted candidates_ at which the mass reaches `wanted`.
  Cut reach(double wanted, Cut otherwise) const {
    double mass = 0.0;
    for (auto at = candidates_.begin(); at != candidates_.end(); ++at) {
      mass += weight(*at);
      if (mass >= wanted) return last_of(at);
    }
    return otherwise;
  }

  // The mass of what is kept; each block's is in block_mass_.
  double total_mass(Cut cut) {
    block_mass_.resize(static_cast<std::size_t>((n_ + kMassBlock - 1) / kMassBlock));
    kernels_->masses(x_, n_, top_, scale_, cut, block_mass_.data());
    double total = 0.0;
    for (double mass : block_mass_) total += mass;
    return total;
  }

  std::int32_t pick(double u, Cut cut) {
    const double target = u * total_mass(cut);
    const std::size_t blocks = block_mass_.size();
    // Rounding may leave the target beyond the end: then it is the last block, or token, that has any mass.
    std::size_t block = 0;
    double before = 0.0, sum = 0.0;
    for (std::size_t b = 0; b < blocks && sum <= target; ++b) {
      if (block_mass_[b] <= 0.0) continue;
      block = b;
      before = sum;
      sum += block_mass_[b];
    }
    const std::int64_t begin = static_cast<std::int64_t>(block) * kMassBlock;
    const std::int64_t end = std::min(begin + kMassBlock, n_);
    float weight[kMassBlock];
    kernels_->weights(x_, begin, end, top_, scale_, cut, weight);
    std::int64_t token = begin;
    sum = before;
    for (std::int64_t i = begin; i < end && sum <= target; ++i) {
      if (weight[i - begin] <= 0.0f) continue;
      token = i;
      sum += static_cast<double>(weight[i - begin]);
    }
    return static_cast<std::int32_t>(token);
  }

  double weight(const Candidate& c) const { return std::exp(static_cast<double>((c.value - top_) * scale_)); }

  static Cut last_of(std::vector<Candidate>::const_iterator at) { return {at->value, at->id}; }

  std::size_t range(float value) const {
    const float distance = (top_ - value) * scale_ * kRangesPerNat;
    return distance < static_cast<float>(kRanges - 1) ? static_cast<std::size_t>(distance) : kRanges - 1;
  }

  static constexpr std::size_t kRanges = 2048;
  static constexpr float kRangesPerNat = 64.0f;

  const SamplingKernels* kernels_ = nullptr;
  const float* x_ = nullptr;
  std::int64_t n_ = 0;
  float top_ = 0.0f, scale_ = 0.0f;
  std::vector<Candidate> candidates_;
  std::vector<std::int32_t> ids_;
  std::vector<float> weights_, adjusted_;
  std::vector<std::int32_t> counts_;
  std::vector<double> range_mass_, block_mass_;
};

void check_ids(const char* what, const std::int64_t* start, const std::int32_t* ids, const Sampling& s) {
  if (start == nullptr) return;
  for (std::int64_t i = start[0]; i < start[s.rows]; ++i)
    NANO_CHECK(ids[i] >= 0 && ids[i] < s.vocab, Code::kInvalidInput, "sample: ", what, ": expected ids in [0, ",
               s.vocab, "), got ", ids[i]);
}

}  // namespace

void sample(Context& context, const Sampling& s) {
  NANO_CHECK(s.vocab >= 1 && s.vocab <= std::numeric_limits<std::int32_t>::max(), Code::kInvalidInput,
             "sample: vocab must be in [1, 2^31), got ", s.vocab);
  check_ids("penalties", s.penalties.start, s.penalties.tokens, s);
  check_ids("bias", s.bias.start, s.bias.ids, s);
  const SamplingKernels& kernels = NANO_TABLE(context.isa, sampling_kernels);
  std::atomic<std::int64_t> bad{s.rows};
  split_rows(context, s.rows, s.vocab, [&](std::int64_t begin, std::int64_t end) {
    thread_local Sampler sampler;
    for (std::int64_t row = begin; row < end; ++row) {
      s.out[row] = sampler.sample(kernels, s, row);
      if (s.out[row] >= 0) continue;
      std::int64_t first = bad.load();
      while (row < first && !bad.compare_exchange_weak(first, row)) {
      }
    }
  });
  NANO_CHECK(bad.load() == s.rows, Code::kInternal, "sample: the logits of row ", bad.load(), " of ", s.rows,
             " hold NaN or have no finite largest value");
}

}  // namespace nano::cpu
