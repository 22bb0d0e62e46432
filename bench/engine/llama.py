"""llama.cpp as a peer of the CPU engine: the same weights as GGUF, greedy generation through its C API.

Needs llama-cpp-python and gguf, nothing of nano.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import gguf
import llama_cpp as c
import numpy as np

LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
BATCH = 2048  # tokens of one llama_decode
SEQUENCES = 32
CONTEXT = 512  # tokens of each of the batch's sequences
LONG = 2048  # tokens of a sequence by itself
ERROR = 4  # GGML_LOG_LEVEL_ERROR


@c.llama_log_callback
def log_errors(level: int, text: bytes, _: object) -> None:
    if level == ERROR:
        print(text.decode(errors="replace"), end="", file=sys.stderr)


def gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in OUTER:
        return f"{OUTER[stem]}.weight"
    layer, _, rest = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{LAYER[rest]}.weight"


def write_gguf(checkpoint: Path, out: Path) -> None:
    """Writes a dense Qwen3 checkpoint of one safetensors file as GGUF: the same numbers, norms widened to float32."""
    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "qwen3")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_tokenizer_model("none")  # requests are token ids
    data = np.memmap(checkpoint / "model.safetensors", np.uint8, "r")
    length = int(data[:8].view(np.uint64)[0])
    for name, entry in json.loads(bytes(data[8 : 8 + length])).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        raw, shape = data[begin:end], entry["shape"]
        if entry["dtype"] == "F32":
            writer.add_tensor(gguf_name(name), raw.view(np.float32).reshape(shape))
        elif len(shape) == 1:
            wide = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            writer.add_tensor(gguf_name(name), wide)
        else:
            rows = raw.reshape(shape[0], shape[1] * 2)
            writer.add_tensor(gguf_name(name), rows, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Llama:
    """A model with two contexts: one long sequence, or up to 32 short ones side by side."""

    def __init__(self, path: Path, threads: int) -> None:
        c.llama_log_set(log_errors, ctypes.c_void_p())
        c.llama_backend_init()
        self._model = c.llama_model_load_from_file(str(path).encode(), c.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp could not load {path}")
        self._vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model))
        self._contexts = {n: self._context(n, n_ctx, threads) for n, n_ctx in ((1, LONG), (SEQUENCES, CONTEXT))}
        self._batch = c.llama_batch_init(BATCH, 0, 1)

    def _context(self, sequences: int, tokens: int, threads: int) -> object:
        params = c.llama_context_default_params()
        params.n_ctx = sequences * tokens
        params.n_batch = BATCH
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        context = c.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError(f"llama.cpp made no context of {sequences} x {tokens} tokens")
        return context

    def generate(self, prompts: list[list[int]], counts: list[int]) -> list[list[int]]:
        """Greedy continuations of counts[i] tokens; all prompts first, then one token of each unfinished row a step."""
        context = self._contexts[1 if len(prompts) == 1 else SEQUENCES]
        c.llama_memory_clear(c.llama_get_memory(context), False)
        outputs: list[list[int]] = [[] for _ in prompts]
        entries = [
            (row, place, token, place == len(prompt) - 1)
            for row, prompt in enumerate(prompts)
            for place, token in enumerate(prompt)
        ]
        while entries:
            for begin in range(0, len(entries), BATCH):
                self._decode(context, entries[begin : begin + BATCH], outputs)
            entries = [
                (row, len(prompts[row]) + len(output) - 1, output[-1], True)
                for row, output in enumerate(outputs)
                if len(output) < counts[row]
            ]
        return outputs

    def _decode(self, context: object, entries: list[tuple[int, int, int, bool]], outputs: list[list[int]]) -> None:
        batch = self._batch
        batch.n_tokens = len(entries)
        for i, (row, place, token, last) in enumerate(entries):
            batch.token[i] = token
            batch.pos[i] = place
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = row
            batch.logits[i] = last
        status = c.llama_decode(context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode of {len(entries)} tokens returned {status}")
        for i, (row, _, _, last) in enumerate(entries):
            if last:
                logits = c.llama_get_logits_ith(context, i)
                address = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))
                outputs[row].append(int(np.ctypeslib.as_array(address, (self._vocab,)).argmax()))
