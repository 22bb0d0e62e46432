"""Triton kernels of the CUDA engine: plain functions on torch tensors, launched on the current stream."""
