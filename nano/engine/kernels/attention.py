"""Attention over the paged KV cache."""

from nano.engine.kernels.decode_attention import DecodeScratch as DecodeScratch
from nano.engine.kernels.decode_attention import Rope as Rope
from nano.engine.kernels.decode_attention import decode_attention as decode_attention
from nano.engine.kernels.decode_config import DecodeConfig as DecodeConfig
from nano.engine.kernels.prefill_attention import PrefillConfig as PrefillConfig
from nano.engine.kernels.prefill_attention import prefill_attention as prefill_attention
