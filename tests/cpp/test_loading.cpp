#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "base/counters.h"
#include "base/error.h"
#include "load/loading.h"

using namespace nano::load;

namespace {

constexpr std::chrono::seconds kLong{20};

class TemporaryFile {
 public:
  explicit TemporaryFile(std::size_t bytes) : content(bytes) {
    std::mt19937 random(7);
    for (std::byte& one : content) one = static_cast<std::byte>(random());
    const int descriptor = mkstemp(path_.data());
    REQUIRE(descriptor >= 0);
    REQUIRE(write(descriptor, content.data(), bytes) == static_cast<ssize_t>(bytes));
    close(descriptor);
  }
  ~TemporaryFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

  std::vector<std::byte> content;

 private:
  std::string path_ = "/tmp/nano-loading-XXXXXX";
};

std::uint64_t address(const std::byte* at) {
  return reinterpret_cast<std::uintptr_t>(at);
}

}  // namespace

TEST_CASE("every byte of every run is read once, whatever touches or is cut") {
  const TemporaryFile first(100'000), second(3);
  std::mt19937 random(1);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::byte> out(first.content.size());
    std::vector<Run> runs{{1, 0, 3, 0}};
    std::vector<std::byte> small(3);
    runs[0].to = address(small.data());
    for (std::size_t at = random() % 5000; at < out.size();) {
      const std::size_t bytes = std::min<std::size_t>(random() % 20'000, out.size() - at);
      runs.push_back({0, at, bytes, address(out.data() + at)});
      at += bytes + (random() % 2) * (random() % 5000);
    }
    std::shuffle(runs.begin(), runs.end(), random);
    std::uint64_t bytes = 0;
    for (const Run& run : runs) bytes += run.bytes;
    {
      Loading loading({first.path(), second.path()}, runs, nullptr, {1 + random() % 4, kPage * (1 + random() % 3), 1});
      REQUIRE(loading.wait(kLong));
      CHECK(loading.done() == bytes);
    }
    CHECK(small == second.content);
    for (const Run& run : runs) {
      if (run.file == 1) continue;
      const auto from = static_cast<std::ptrdiff_t>(run.offset),
                 to = static_cast<std::ptrdiff_t>(run.offset + run.bytes);
      CHECK(std::equal(out.begin() + from, out.begin() + to, first.content.begin() + from));
    }
  }
  CHECK(nano::counters().at("threads") == 0);
}

TEST_CASE("a piece is a read: of runs that touch, up to the file's multiples of its size") {
  const Pieces plan({{0, 100, 50, 1000}, {0, 150, 4000, 2000}, {0, 9000, 10, 3000}, {1, 0, 4096, 4000}}, 4096);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> got;
  for (const Piece& piece : plan.pieces) got.emplace_back(piece.offset, piece.bytes);
  CHECK(got == decltype(got){{100, 3996}, {4096, 54}, {9000, 10}, {0, 4096}});
  CHECK(plan.pieces[0].last_part == 2);
  CHECK(plan.parts[1].at == 50);
  CHECK(plan.parts[2].to == 2000 + 3946);
}

TEST_CASE("a file that ends too early is named, once every reader has stopped") {
  const TemporaryFile file(10'000);
  std::vector<std::byte> out(20'000);
  Loading loading({file.path()}, {{0, 0, 20'000, address(out.data())}}, nullptr, {3, kPage, 1});
  try {
    loading.wait(kLong);
    FAIL("expected an error");
  } catch (const nano::Error& error) {
    CHECK(error.code() == nano::Code::kInvalidInput);
    CHECK(std::string(error.what()).find(file.path() + ": ends at 10000") != std::string::npos);
  }
}

TEST_CASE("a file that is not there is named; nothing at all is done at once; closing stops") {
  CHECK_THROWS_AS(Loading({"/nowhere"}, {}, nullptr, {1, kPage, 1}), nano::Error);
  Loading nothing({}, {}, nullptr, {4, kPage, 1});
  CHECK(nothing.wait(std::chrono::seconds(0)));
  const TemporaryFile file(4'000'000);
  std::vector<std::byte> out(file.content.size());
  Loading loading({file.path()}, {{0, 0, out.size(), address(out.data())}}, nullptr, {2, kPage, 1});
  loading.close();
  loading.close();
  CHECK(nano::counters().at("threads") == 0);
}
