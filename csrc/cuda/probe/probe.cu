#include <cuda_runtime.h>

#include <concepts>

namespace {

template <std::integral T>
__global__ void count(T* out) {
  atomicAdd(out, 1);
}

}  // namespace

int main() {
  count<<<1, 1>>>(static_cast<int*>(nullptr));
  return static_cast<int>(cudaGetLastError());
}
