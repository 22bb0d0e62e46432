#include "load/pieces.h"

#include <algorithm>
#include <tuple>

namespace nano::load {

Pieces::Pieces(std::vector<Run> runs, std::uint64_t bytes) {
  std::sort(runs.begin(), runs.end(), [](const Run& left, const Run& right) {
    return std::tie(left.file, left.offset) < std::tie(right.file, right.offset);
  });
  for (const Run& run : runs) {
    for (std::uint64_t done = 0; done < run.bytes;) {
      const std::uint64_t offset = run.offset + done;
      const std::uint64_t part = std::min(run.bytes - done, bytes - offset % bytes);
      const bool follows = !pieces.empty() && pieces.back().file == run.file &&
                           pieces.back().offset + pieces.back().bytes == offset && offset % bytes != 0;
      if (!follows) pieces.push_back({run.file, offset, 0, parts.size(), parts.size()});
      Piece& piece = pieces.back();
      parts.push_back({piece.bytes, part, run.to + done});
      piece.bytes += part;
      piece.last_part = parts.size();
      done += part;
    }
  }
}

}  // namespace nano::load
