"""GPU memory in nano.transfer, as far as it goes without a GPU: clear refusals, and host memory as before."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from nano.errors import InvalidInput, SystemFault
from nano.transfer import Endpoint


def driver_missing() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True
    return False


needs_no_driver = pytest.mark.skipif(not driver_missing(), reason="there is a CUDA driver here")


class GpuArray:
    """What a GPU array shows of itself."""

    def __init__(self, **changes: object) -> None:
        self.__cuda_array_interface__ = {
            "shape": (4, 16), "typestr": "<f4", "data": (1 << 40, False), "strides": None, "version": 3,
        } | changes  # fmt: skip


@needs_no_driver
def test_without_a_driver_gpu_memory_is_refused_with_the_reason() -> None:
    with Endpoint("a") as endpoint:
        with pytest.raises(SystemFault, match=r"no CUDA driver: libcuda\.so\.1"):
            endpoint.allocate(1 << 20, "pool", device="cuda")
        with pytest.raises(SystemFault, match=r"no CUDA driver: libcuda\.so\.1"):
            endpoint.register(GpuArray(), "array")
        endpoint.allocate(1 << 12, "pool")  # the name is still free


def test_a_device_that_is_none_is_refused_by_name() -> None:
    with Endpoint("a") as endpoint:
        for device in ("tpu", "cuda:", "cuda:-1", "cuda:x", ""):
            with pytest.raises(InvalidInput, match="device: expected cpu, cuda or cuda:N, got"):
                endpoint.allocate(1 << 12, "pool", device=device)


def test_a_gpu_array_that_is_not_contiguous_is_refused() -> None:
    with Endpoint("a") as endpoint, pytest.raises(InvalidInput, match=r"register array: .*not contiguous"):
        endpoint.register(GpuArray(strides=(128, 8)), "array")


def test_host_memory_has_no_gpu_sides_and_no_stream() -> None:
    with Endpoint("a") as a, Endpoint("b") as b, a.allocate(1 << 12, "near") as near, b.allocate(1 << 12, "far"):
        assert near.device is None
        assert not hasattr(near, "__cuda_array_interface__")
        with pytest.raises(InvalidInput, match="it is host memory"):
            near.dma_buf()
        with a.connect(b.descriptor()) as peer:
            with pytest.raises(InvalidInput, match="region near is host memory, which no stream orders"):
                peer.write(near, "far", [0], [0], 16, stream=0)
            peer.write(near, "far", [0], [0], 16).wait(5)


def test_the_gpu_path_is_offered_on_one_host_and_host_memory_goes_by_another() -> None:
    with Endpoint("a") as a, Endpoint("b") as b, a.allocate(1 << 12, "near") as near, b.allocate(1 << 12, "far") as far:
        near.array[:] = 7
        with a.connect(b.descriptor()) as peer:
            assert dict(peer.transports)["cuda_ipc"] == ""
            assert peer.transport != "cuda_ipc"
            peer.write(near, "far", [0], [0], 1 << 12).wait(5)
        assert (far.array == np.full(1 << 12, 7)).all()
        with a.connect(b.descriptor(), transports=["tcp"]) as peer:
            assert dict(peer.transports).get("cuda_ipc", "not offered") != ""
