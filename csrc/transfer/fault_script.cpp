#include "transfer/fault_script.h"

#include <charconv>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace nano::transfer {
namespace {

constexpr std::array<std::pair<std::string_view, FaultPoint>, kFaultPoints> kPoints{{
    {"op", FaultPoint::kOp},
    {"answer", FaultPoint::kAnswer},
    {"frame", FaultPoint::kFrame},
    {"region", FaultPoint::kRegion},
}};
constexpr std::array<std::pair<std::string_view, FaultAction>, 7> kActions{{
    {"drop", FaultAction::kDrop},
    {"delay", FaultAction::kDelay},
    {"duplicate", FaultAction::kDuplicate},
    {"truncate", FaultAction::kTruncate},
    {"reorder", FaultAction::kReorder},
    {"corrupt", FaultAction::kCorrupt},
    {"cut", FaultAction::kCut},
}};

// An answer that comes twice would be a bug here, not a fault of the way: the path counts it itself.
bool has(FaultPoint point, FaultAction action) {
  switch (point) {
    case FaultPoint::kOp:
    case FaultPoint::kFrame:
      return true;
    case FaultPoint::kAnswer:
      return action == FaultAction::kDrop || action == FaultAction::kDelay || action == FaultAction::kCut;
    case FaultPoint::kRegion:
      return action == FaultAction::kDrop || action == FaultAction::kCorrupt || action == FaultAction::kTruncate;
  }
  return false;
}

std::string_view trim(std::string_view text) {
  const auto begin = text.find_first_not_of(' ');
  return begin == std::string_view::npos ? "" : text.substr(begin, text.find_last_not_of(' ') + 1 - begin);
}

// The first word of the text, which loses it.
std::string_view word(std::string_view& text) {
  text = trim(text);
  const auto end = std::min(text.find(' '), text.size());
  const std::string_view out = text.substr(0, end);
  text.remove_prefix(end);
  return out;
}

template <class T>
std::optional<T> number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

template <class T, std::size_t N>
std::optional<T> named(const std::array<std::pair<std::string_view, T>, N>& names, std::string_view text) {
  for (const auto& [name, value] : names) {
    if (name == text) return value;
  }
  return std::nullopt;
}

}  // namespace

FaultScript::FaultScript(std::string_view text) {
  while (!text.empty()) {
    const auto end = std::min(text.find(';'), text.size());
    std::string_view rest = trim(text.substr(0, end));
    const std::string_view whole = rest;
    text.remove_prefix(std::min(end + 1, text.size()));
    if (whole.empty()) continue;
    if (whole.starts_with("seed=")) {
      const auto seed = number<std::uint64_t>(whole.substr(5));
      NANO_CHECK(seed, Code::kInvalidInput, "fault script: expected seed=NUMBER, got ", whole);
      state_ = *seed;
      continue;
    }
    const auto point = named(kPoints, word(rest));
    std::string_view when = word(rest);
    const auto action = named(kActions, word(rest));
    const bool percent = when.ends_with('%');
    if (percent) when.remove_suffix(1);
    const auto nth = percent ? std::nullopt : number<std::uint64_t>(when);
    const auto chance = percent ? number<double>(when) : std::nullopt;
    const std::string_view last = word(rest);
    const auto seconds = number<double>(last.empty() ? "0" : last);
    NANO_CHECK(point && action && (nth || chance) && has(*point, *action) && trim(rest).empty() && seconds &&
                   *seconds >= 0 && *seconds < 3600 && (*action != FaultAction::kDelay || !last.empty()),
               Code::kInvalidInput, "fault script: expected POINT N|P% ACTION [SECONDS], got ", whole);
    rules_.push_back({*point, nth, chance.value_or(0) / 100, {*action, static_cast<std::int64_t>(*seconds * 1e9)}});
  }
}

std::optional<Fault> FaultScript::next(FaultPoint point) {
  const std::uint64_t at = seen_[static_cast<std::size_t>(point)]++;
  for (const Rule& rule : rules_) {
    if (rule.point != point) continue;
    if (rule.nth ? *rule.nth == at : static_cast<double>(draw(1u << 30)) < rule.probability * (1u << 30)) {
      return rule.fault;
    }
  }
  return std::nullopt;
}

// SplitMix64.
std::uint64_t FaultScript::draw(std::uint64_t limit) {
  state_ += 0x9e3779b97f4a7c15;
  std::uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return (z ^ (z >> 31)) % limit;
}

FaultScript FaultScript::fork() {
  FaultScript out = *this;
  out.state_ = draw(UINT64_MAX);
  out.seen_ = {};
  return out;
}

}  // namespace nano::transfer
