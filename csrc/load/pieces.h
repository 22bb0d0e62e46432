// Runs of files, and the pieces in which they are read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace nano::load {

// Consecutive bytes of a file, and where in memory they go.
struct Run {
  std::size_t file;
  std::uint64_t offset;
  std::uint64_t bytes;
  std::uint64_t to;
};

// Part of a run, `at` bytes from its piece's start.
struct Part {
  std::uint64_t at;
  std::uint64_t bytes;
  std::uint64_t to;
};

// What one read brings: consecutive bytes of a file, of one run or of several that touch.
struct Piece {
  std::size_t file;
  std::uint64_t offset;
  std::uint64_t bytes;
  std::size_t first_part, last_part;  // [first, last) of Pieces::parts
};

struct Pieces {
  // Cuts at the file's multiples of `bytes`, so that all but the ends of a run are read by whole pages of the cache.
  Pieces(std::vector<Run> runs, std::uint64_t bytes);

  std::vector<Piece> pieces;  // in order of file and offset
  std::vector<Part> parts;
};

}  // namespace nano::load
