"""What an engine takes of a GPU's memory: the KV blocks that are left, and what to change where there are too few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nano.engine.backend import Plan
from nano.errors import OutOfMemory

if TYPE_CHECKING:
    from nano.engine.model_config import ModelConfig

LATER_BYTES = 512 << 20  # CUDA graphs, kernels compiled later and the allocator's slack
CUDA_BYTES = LATER_BYTES + (512 << 20)  # the same and CUDA's context
SCALE_SHARE = 4 / 128**2  # bytes of fp8 scales per byte of weights


@dataclass(frozen=True)
class Usage:
    """Bytes of a device when weights and workspace are there, and nothing of the pool yet."""

    device: str
    total: int
    free: int  # by the driver: what other processes hold is gone from it
    weights: int
    workspace: int  # activations of the largest step and scratch

    def blocks(self, plan: Plan) -> int:
        """KV blocks of the pool: those that kvcache_bytes names, else what gpu_memory_utilization leaves this process.

        Other processes count against what is free, not against this engine's share. Raises OutOfMemory.
        """
        block_bytes = plan.layout.block_bytes
        room = (self.free - LATER_BYTES) // block_bytes
        if asked := plan.asked:
            if asked > room:
                raise OutOfMemory(f"{self._no_room(asked * block_bytes)}, or lower --kvcache_bytes")
            return asked
        config = plan.config
        # Who names a length gets room for one request of it.
        least = plan.longest if config.max_model_len else 2
        if least > room:
            raise OutOfMemory(f"{self._no_room(least * block_bytes)}, or lower {_lower(plan)}")
        share = (int(config.gpu_memory_utilization * self.total) - self._taken) // block_bytes
        if least > share:
            need = self._taken + least * block_bytes
            raise OutOfMemory(
                f"{self.device}: needs {_gib(need)}: weights {_gib(self.weights)}, activations and scratch "
                f"{_gib(self.workspace)}, CUDA {_gib(CUDA_BYTES)}, KV pool at least {_gib(least * block_bytes)}; "
                f"--gpu_memory_utilization {config.gpu_memory_utilization:g} of {_gib(self.total)} is "
                f"{_gib(int(config.gpu_memory_utilization * self.total))}: {self._raise(need)}lower {_lower(plan)}"
            )
        return min(share, room, max(plan.most, least))

    @property
    def _taken(self) -> int:
        return self.weights + self.workspace + CUDA_BYTES

    def _raise(self, need: int) -> str:
        hundredths = -(-100 * need // self.total)
        return f"raise it to {hundredths / 100:.2f}, or " if hundredths < 100 else ""

    def _no_room(self, pool: int) -> str:
        return (
            f"{self.device}: KV pool: needs {_gib(pool)}, and {_gib(LATER_BYTES)} stay free for CUDA graphs; of "
            f"{_gib(self.total)} {_gib(self.free)} are free beside weights ({_gib(self.weights)}) and activations "
            f"({_gib(self.workspace)}): end other processes on this GPU"
        )


def weight_bytes(model: ModelConfig, itemsize: int) -> int:
    """Bytes of all matrices on a device, `itemsize` an element where they are not fp8."""
    hidden, head_dim = model.hidden_size, model.head_dim
    attention = hidden * head_dim * 2 * (model.num_heads + model.num_kv_heads)
    dense = 3 * hidden * model.intermediate_size
    experts = 3 * hidden * model.moe_intermediate_size * model.num_experts
    moe = len(model.moe_layers)
    projections = model.num_layers * attention + (model.num_layers - moe) * dense + moe * experts
    others = model.vocab_size * hidden * (1 if model.tied else 2) + moe * hidden * model.num_experts
    of_projection = itemsize if model.fp8 is None else 1 + SCALE_SHARE
    return int(projections * of_projection + others * itemsize)


def refuse_weights(device: str, need: int, free: int, total: int) -> None:
    """Raises OutOfMemory where the weights alone are more than what is free."""
    if need > free:
        raise OutOfMemory(
            f"{device}: weights need {_gib(need)}, of {_gib(total)} {_gib(free)} are free: end other processes on "
            "this GPU, or take a smaller or an fp8 checkpoint"
        )


def workspace_failed(device: str, plan: Plan, need: int, free: int, error: Exception) -> OutOfMemory:
    """What to say when the device ran out before there was a pool; `free` before the weights came."""
    config = plan.config
    reason = str(error).split(". ", 1)[0]  # torch goes on with advice about its allocator
    return OutOfMemory(
        f"{device}: activations of {config.max_num_batched_tokens} tokens and {config.max_num_seqs} requests: "
        f"{_gib(free)} were free, of which the weights take {_gib(need)}: {reason}; lower --max_num_batched_tokens "
        "or --max_num_seqs"
    )


def _lower(plan: Plan) -> str:
    model_len = ["--max_model_len (KV)"] if plan.config.max_model_len else []
    return " or ".join([*model_len, "--max_num_batched_tokens or --max_num_seqs (activations)"])


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB"
