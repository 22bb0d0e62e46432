// What goes wrong, and when: rules out of a text, drawn with a seed. For tests alone.
//
//   seed=7; op 2 drop; op 25% delay 0.05; answer 0 drop; frame 1 corrupt
//
// A rule is a point, which of its occurrences on a path (a number from 0, or a probability), an action, and seconds
// for a delay. Points: op (an operation is submitted), answer (the other side confirmed or refused pieces), frame (the
// path tells its other end something), region (a region is announced).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nano::transfer {

enum class FaultPoint : std::uint8_t { kOp, kAnswer, kFrame, kRegion };
inline constexpr std::size_t kFaultPoints = 4;

// reorder: held until the next one has gone. cut: the path declines itself, in the middle of what it does.
enum class FaultAction : std::uint8_t { kDrop, kDelay, kDuplicate, kTruncate, kReorder, kCorrupt, kCut };

struct Fault {
  FaultAction action;
  std::int64_t delay_ns = 0;
};

class FaultScript {
 public:
  // Raises InvalidInput for a text that is no script, and for an action that its point does not have.
  explicit FaultScript(std::string_view text);

  // What happens to the next occurrence at that point.
  std::optional<Fault> next(FaultPoint point);
  // A number below `limit`, which is > 0.
  std::uint64_t draw(std::uint64_t limit);
  // The same rules for another path, which draws differently.
  FaultScript fork();

 private:
  struct Rule {
    FaultPoint point;
    std::optional<std::uint64_t> nth;  // none: with that probability
    double probability = 0;
    Fault fault;
  };

  std::vector<Rule> rules_;
  std::array<std::uint64_t, kFaultPoints> seen_{};
  std::uint64_t state_ = 0;
};

}  // namespace nano::transfer
