// Splits rows over a context's threads when there is enough to do.
#pragma once

#include <cstdint>

#include "cpu/context.h"

namespace nano::cpu {

// body(begin, end) over [0, rows). `cost` is a row's work in elements touched: below about ten microseconds in all,
// waking the threads costs more than it saves.
template <class Body>
void split_rows(Context& context, std::int64_t rows, std::int64_t cost, Body&& body) {
  constexpr std::int64_t kWorthThreads = 32768;
  if (rows <= 1 || rows * cost < kWorthThreads) {
    if (rows > 0) body(std::int64_t{0}, rows);
    return;
  }
  context.pool.split(rows, 1, [&](std::int64_t begin, std::int64_t end, int) { body(begin, end); });
}

}  // namespace nano::cpu
