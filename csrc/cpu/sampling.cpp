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
  std::int32_t draw(const SamplingKernels& kernels, const Sampling& s, std::int64_t row) {
    kernels_ = &kernels;
    x_ = s.logits + row * s.vocab;
    n_ = s.vocab;
    const Top top = kernels.top(x_, n_);
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
    return pick(uniform(s.seeds[row], static_cast<std::uint32_t>(s.positions[row])), cut);
  }

 private:
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

  std::int32_t pick(double u, Cut cut) {
    const std::size_t blocks = static_cast<std::size_t>((n_ + kMassBlock - 1) / kMassBlock);
    block_mass_.resize(blocks);
    kernels_->masses(x_, n_, top_, scale_, cut, block_mass_.data());
    double total = 0.0;
    for (double mass : block_mass_) total += mass;
    const double target = u * total;
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
  std::vector<float> weights_;
  std::vector<double> range_mass_, block_mass_;
};

}  // namespace

void sample(Context& context, const Sampling& s) {
  NANO_CHECK(s.vocab >= 1 && s.vocab <= std::numeric_limits<std::int32_t>::max(), Code::kInvalidInput,
             "sample: vocab must be in [1, 2^31), got ", s.vocab);
  const SamplingKernels& kernels = NANO_TABLE(context.isa, sampling_kernels);
  std::atomic<std::int64_t> bad{s.rows};
  split_rows(context, s.rows, s.vocab, [&](std::int64_t begin, std::int64_t end) {
    thread_local Sampler sampler;
    for (std::int64_t row = begin; row < end; ++row) {
      s.out[row] = sampler.draw(kernels, s, row);
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
