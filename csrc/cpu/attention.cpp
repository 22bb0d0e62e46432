#include "cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "base/error.h"
#include "cpu/kernels/attention.h"
#include "cpu/scratch.h"

namespace nano::cpu {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// A step's work, cut into tasks, the long ones first.
class Plan {
 public:
  void make(const Attention& call, std::int64_t partial_size, int threads) {
    tasks.clear();
    splits.clear();
    const std::int64_t group = call.heads / call.kv_heads;
    const std::int64_t task_tokens = std::max<std::int64_t>(1, kTaskRows / group);
    work = 0;  // keys seen, over rows
    for (std::int64_t seq = 0; seq < call.seqs; ++seq)
      work += (call.cu_query[seq + 1] - call.cu_query[seq]) * std::int64_t{call.context_lens[seq]} * call.heads;
    // A decode row is cut into its spans when it would otherwise be more than a quarter of a thread's share.
    const std::int64_t share = work / (4 * threads);
    partials = 0;
    for (std::int64_t seq = 0; seq < call.seqs; ++seq) {
      const std::int64_t rows = call.cu_query[seq + 1] - call.cu_query[seq];
      const std::int64_t spans = ceil_div(call.context_lens[seq], kSpan);
      const bool split = threads > 1 && rows == 1 && spans > 1 && call.context_lens[seq] * group > share;
      for (std::int64_t head = 0; head < call.kv_heads && rows > 0; ++head) {
        AttentionTask task = {static_cast<std::int32_t>(seq), static_cast<std::int32_t>(head), 0, 0, -1, -1};
        if (split) {
          task.end = 1;
          task.partials = static_cast<std::int32_t>(splits.size());
          splits.push_back({task, spans, partials});
          partials += spans * group * partial_size;
          for (std::int64_t span = 0; span < spans; ++span) {
            task.span = static_cast<std::int32_t>(span);
            tasks.push_back(task);
          }
        } else {
          for (std::int64_t end = rows; end > 0; end -= task_tokens) {
            task.begin = static_cast<std::int32_t>(std::max<std::int64_t>(0, end - task_tokens));
            task.end = static_cast<std::int32_t>(end);
            tasks.push_back(task);
          }
        }
      }
    }
    left.resize(splits.size());
    for (std::size_t i = 0; i < splits.size(); ++i) left[i] = splits[i].spans;
    const auto cost = [&](const AttentionTask& t) {
      if (t.span >= 0) return kSpan;
      const std::int64_t rows = call.cu_query[t.seq + 1] - call.cu_query[t.seq];
      return (call.context_lens[t.seq] - rows + t.end) * std::int64_t{t.end - t.begin};
    };
    std::stable_sort(tasks.begin(), tasks.end(),
                     [&](const AttentionTask& a, const AttentionTask& b) { return cost(a) > cost(b); });
  }

  struct Split {
    AttentionTask task;
    std::int64_t spans, partials;  // offset of its partial results
  };
  std::vector<AttentionTask> tasks;
  std::vector<Split> splits;
  std::vector<std::int64_t> left;  // spans of each split not yet done
  std::int64_t work, partials;
};

}  // namespace

void attention(Context& context, const Attention& call, DType dtype) {
  NANO_CHECK(call.kv_heads >= 1 && call.heads % call.kv_heads == 0 && call.heads / call.kv_heads <= kTaskRows,
             Code::kInvalidInput, "attention: heads must be 1 to ", kTaskRows, " times kv_heads, got ", call.heads,
             " and ", call.kv_heads);
  const AttentionKernels& kernels = NANO_TABLE(context.isa, attention_kernels);
  const int type = static_cast<int>(dtype);
  const std::int64_t group = call.heads / call.kv_heads;
  const std::int64_t partial = kernels.partial_size(call);
  const std::int64_t working = kernels.scratch(call);
  thread_local Plan plan;
  thread_local Scratch partials;
  plan.make(call, partial, context.pool.threads());
  float* const results = partials.floats(plan.partials);

  Plan& step = plan;  // thread_local names are per thread: workers use the caller's
  std::atomic<std::size_t> next{0};
  const auto body = [&](int) {
    thread_local Scratch memory;
    float* scratch = memory.floats(working);
    for (;;) {
      const std::size_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= step.tasks.size()) return;
      const AttentionTask& task = step.tasks[i];
      if (task.span < 0) {
        kernels.whole[type](call, task, scratch);
        continue;
      }
      const std::size_t which = static_cast<std::size_t>(task.partials);
      const Plan::Split& split = step.splits[which];
      kernels.span[type](call, task, scratch, results + split.partials + task.span * group * partial);
      if (std::atomic_ref(step.left[which]).fetch_sub(1, std::memory_order_acq_rel) == 1)
        kernels.merge[type](call, split.task, split.spans, results + split.partials, scratch);
    }
  };
  // Below about ten microseconds of multiply-adds, waking the threads costs more than it saves.
  constexpr std::int64_t kWorthThreads = 1 << 17;
  if (step.tasks.size() <= 1 || step.work * call.head_dim < kWorthThreads)
    body(0);
  else
    context.pool.run(body);
}

}  // namespace nano::cpu
