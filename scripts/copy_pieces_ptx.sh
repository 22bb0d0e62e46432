#!/bin/sh
# Makes csrc/cuda/copy_pieces_ptx.h from csrc/cuda/copy_pieces.cu. Run it after a change there; needs nvcc.
set -eu
cd "$(dirname "$0")/.."
out=csrc/cuda/copy_pieces_ptx.h
{
  cat <<END
// Made by scripts/copy_pieces_ptx.sh from csrc/cuda/copy_pieces.cu. For every device since sm_75; the driver compiles
// it when it is first used.
#pragma once

namespace nano::cuda {

inline constexpr char kCopyPiecesPtx[] = R"ptx(
END
  # An old version, which says all that the kernel needs: newer ones are refused by drivers older than the toolkit.
  "${NVCC:-nvcc}" -std=c++20 -Icsrc -arch=compute_75 --ptx csrc/cuda/copy_pieces.cu -o - |
    sed -e '/^\/\//d' -e '/\/\/ .globl/d' -e '/inline asm/d' -e '/^$/d' -e 's/^\.version .*/.version 7.0/'
  cat <<END
)ptx";

}  // namespace nano::cuda
END
} >"$out.new"
mv "$out.new" "$out"
