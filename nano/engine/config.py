"""What an engine is told at the door. Parsed once, passed down; nothing deeper reads flags or the environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nano.errors import InvalidInput

LoadFormat = Literal["auto", "dummy"]
Role = Literal["prefill", "decode", "hybrid"]
DType = Literal["auto", "float32", "bfloat16"]
KVCacheDType = Literal["auto", "fp8"]


@dataclass(frozen=True)
class EngineConfig:
    """One engine. `model` is a Hugging Face directory or hub id."""

    model: str
    role: Role = "hybrid"
    name: str = ""  # empty: the role and a random suffix
    dtype: DType = "auto"  # auto: the checkpoint's own
    device: str = "auto"  # auto: cuda when torch has one, else cpu
    host: str = "127.0.0.1"
    port: int = 0  # the ZMQ socket's; 0: any free port
    kv_cache_dtype: KVCacheDType = "auto"  # auto: the model's; fp8: e4m3, with the checkpoint's scales or none; on GPUs
    kvcache_block_size: int = 64
    kvcache_bytes: int = (
        0  # 0: on a CPU room for 65536 tokens within 1 GiB, on a GPU what gpu_memory_utilization leaves
    )
    gpu_memory_utilization: float = 0.9  # share of the GPU's memory for weights, workspace and KV pool together
    load_format: LoadFormat = "auto"  # dummy: random weights made in place, of a checkpoint that has only config.json
    cuda_graphs: bool = True
    check: bool = False  # debugging on a GPU: validates every step and compares its logits with a CPU twin's; slow
    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 256
    max_model_len: int = 0  # 0: the model's own
    prefix_caching: bool = True
    threads: int = 0  # 0: the CPUs allowed
    cpu_isa: str = "auto"
    local_prefill_tokens: int = 256  # a rest at most this long is prefilled by the decode engine itself
    transfer_layer_groups: int = 4  # pieces a KV block travels in, one a group of layers
    allow_remote: bool = False  # let `host` be reachable from other machines, without authentication
    transports: tuple[str, ...] = (
        "cuda_ipc",
        "shm",
        "verbs",
        "tcp",
    )  # RDMA between hosts that have devices
    transfer_lease: float = 30.0  # seconds without progress until a prefill engine frees blocks nobody fetched
    models: tuple[str, ...] = field(default=())  # names that requests may use; empty: `model` as given

    def __post_init__(self) -> None:
        if self.role not in ("prefill", "decode", "hybrid"):
            raise InvalidInput(f"role: expected prefill, decode or hybrid, got {self.role!r}")
        if self.kvcache_block_size < 1 or self.kvcache_block_size & (self.kvcache_block_size - 1):
            raise InvalidInput(f"kvcache_block_size: expected a power of two, got {self.kvcache_block_size}")
        if self.kv_cache_dtype not in ("auto", "fp8"):
            raise InvalidInput(f"kv_cache_dtype: expected auto or fp8, got {self.kv_cache_dtype!r}")
        if self.load_format not in ("auto", "dummy"):
            raise InvalidInput(f"load_format: expected auto or dummy, got {self.load_format!r}")
        if not 0.05 <= self.gpu_memory_utilization <= 0.99:
            raise InvalidInput(f"gpu_memory_utilization: expected 0.05 to 0.99, got {self.gpu_memory_utilization}")
        for name in ("max_num_batched_tokens", "max_num_seqs", "transfer_layer_groups"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name}: expected >= 1, got {getattr(self, name)}")
