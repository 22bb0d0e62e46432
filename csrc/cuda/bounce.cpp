#include "cuda/bounce.h"

#include "cuda/pinned.h"

namespace nano::cuda {

Bounce::Bounce(const ContextPtr& context)
    : device_(context->device()), window_(allocate_pinned(context, kBytes)), copier_(context, 0) {}

void Bounce::run(std::span<const Copy> copies) {
  copier_.start(copies);
  copier_.wait();
}

}  // namespace nano::cuda
