#include "base/error.h"

#include <cstring>

namespace nano {

void fail(Code code, const std::string& text, const char* file, int line) {
  const char* slash = std::strrchr(file, '/');
  throw Error(code, cat(text, " [", slash ? slash + 1 : file, ":", line, "]"));
}

std::string errno_text(int error) {
  const char* name = strerrorname_np(error);
  return cat(name ? name : "?", " (", strerrordesc_np(error) ? strerrordesc_np(error) : "unknown", ")");
}

}  // namespace nano
