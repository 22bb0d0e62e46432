"""CPU kernels on raw pointers (torch's or numpy's data_ptr): shapes are checked by the callers in nano/engine/ops.

Conventions. Residual stream, GEMM outputs and logits: fp32. GEMM inputs (outputs of norm, activation, attention), K/V
and weights: the model's dtype, fp32 (0) or bf16 (1). All row-major and contiguous unless a stride (in elements) is
given. Every kernel's result for a row does not depend on the other rows of the batch (fixed reduction order).
"""

F32: int  # 0
BF16: int  # 1

def isas() -> list[str]:
    """Instruction sets that this CPU can run, best first: avx512_bf16, avx512, avx2, neon, scalar."""

class Context:
    """A team of threads and an instruction set; kernels run on it one at a time."""
    def __init__(self, threads: int, isa: str = "auto", spin_us: int = 50) -> None: ...
    threads: int
    isa: str

class Linear:
    """A weight [n, k] in a packed layout of its own; y = x @ w.T."""
    def __init__(self, context: Context, n: int, k: int, dtype: int) -> None: ...
    def load(self, row: int, rows: int, weight: int, weight_dtype: int) -> None:
        """Packs `rows` rows from `weight` ([rows, k]) to rows row.. of this weight, converting the dtype."""
    n: int
    k: int
    nbytes: int
    def run(self, x: int, m: int, x_stride: int, y: int, y_stride: int, accumulate: bool = False) -> None:
        """x: [m, k] model dtype; y: [m, n] fp32, y = or += x @ w.T."""
    def gather(self, ids: int, count: int, y: int) -> None:
        """Embedding: y[i, :] = w[ids[i], :] as fp32. ids: int32 [count], each in [0, n) (checked)."""

class Experts:
    """Weights of E experts' gated MLPs: gate_up [E, 2 i, h], down [E, h, i]."""
    def __init__(self, context: Context, experts: int, hidden: int, intermediate: int, dtype: int) -> None: ...
    def load(self, expert: int, gate: int, up: int, down: int, weight_dtype: int) -> None: ...
    nbytes: int
    def run(self, x: int, m: int, ids: int, weights: int, top_k: int, y: int) -> None:
        """y[t] += sum_j weights[t, j] * mlp_{ids[t, j]}(x[t]). x: [m, h] model dtype; ids: int32 [m, top_k];
        weights: fp32 [m, top_k]; y: fp32 [m, h]."""

def rms_norm(
    context: Context, x: int, weight: int, out: int, rows: int, hidden: int, eps: float, dtype: int, index: int = 0
) -> None:
    """out[i] = norm(x[index ? index[i] : i]) * weight. x, weight: fp32; out: model dtype; index: int32."""

def silu_mul(context: Context, gate_up: int, out: int, rows: int, intermediate: int, dtype: int) -> None:
    """gate_up: fp32 [rows, 2 i]; out: model dtype [rows, i] = silu(gate) * up."""

def rope_write(
    context: Context,
    qkv: int,  # fp32 [tokens, (heads + 2 kv_heads) * head_dim]
    q_out: int,  # model dtype [tokens, heads, head_dim]
    q_norm: int,  # fp32 [head_dim], or 0: no norm
    k_norm: int,
    eps: float,
    cos_sin: int,  # fp32 [max_position, head_dim]: cos of head_dim / 2 angles, then their sin
    positions: int,  # int32 [tokens]
    slots: int,  # int64 [tokens]
    kv: int,  # the pool's base, already advanced to this layer
    tokens: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    block_stride: int,  # elements from a block to the next
    kv_stride: int,  # from K to V
    head_stride: int,
    dtype: int,
) -> None:
    """RMS norm of each q and k head, rotation (half-split pairs, as Llama's and Qwen's), then K and V into the pool.

    The K of (block b, head h, offset t) is at kv + b * block_stride + h * head_stride + t * head_dim; V kv_stride on.
    """

def attention(
    context: Context,
    q: int,  # model dtype [tokens, heads, head_dim]
    out: int,  # model dtype [tokens, heads, head_dim]
    kv: int,
    cu_query: int,  # int32 [seqs + 1]
    context_lens: int,  # int32 [seqs], tokens in the cache, this step's included
    block_tables: int,  # int32 [seqs, table_stride]
    seqs: int,
    table_stride: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    block_stride: int,
    kv_stride: int,
    head_stride: int,
    scale: float,
    dtype: int,
) -> None:
    """Causal paged attention, prefill chunks and decode rows mixed in one batch; fp32 softmax and accumulation.

    Row i of a sequence with n rows and context c sees positions 0 to c - n + i. In fp32 a row's bits do not depend on
    how its prompt was cut into chunks. In bf16 on AVX512-BF16, rows of chunks have their weights rounded to bf16 and
    decode rows have not. Raises InvalidInput unless heads is 1 to 64 times kv_heads.
    """

def route(
    context: Context, logits: int, rows: int, experts: int, top_k: int, normalize: bool, ids: int, weights: int
) -> None:
    """Top-k routing: softmax over experts (fp32 [rows, experts]), the top_k largest (ties: smaller id), optionally
    renormalised to sum 1. ids: int32 [rows, top_k], weights: fp32. A row with NaN gets valid ids and NaN weights."""

def sample(
    context: Context,
    logits: int,  # fp32 [rows, vocab]
    rows: int,
    vocab: int,
    temperature: int,  # fp32 [rows]; 0: greedy (the smallest id among the largest logits)
    top_p: int,  # fp32 [rows]
    top_k: int,  # int32 [rows]; 0: off
    seeds: int,  # uint64 [rows]
    positions: int,  # int32 [rows]
    out: int,  # int32 [rows]
    min_p: int = 0,  # fp32 [rows]; 0: off
    penalties: tuple[int, int, int, int, int, int] | None = None,
    bias: tuple[int, int, int] | None = None,
    logprobs: tuple[int, int, int, int, int] | None = None,
) -> None:
    """softmax(logits / temperature) of the top_k most probable tokens (ties: smaller id), of those the fewest whose
    mass reaches top_p of theirs (at least one), of those the ones at least min_p as probable as the most probable, and
    one draw: the first token, in the order of ids, at which the cumulative mass exceeds u of the kept mass.

    Before that, `bias` is added: (start: int64 [rows + 1], ids: int32, values: fp32), a row's from start[row] on; then
    come the `penalties`: (start: int64 [rows + 1], tokens: int32, the prompt's and then the outputs, prompt_lens: int32
    [rows], repetition, presence, frequency: fp32 [rows]). For tokens of prompt or outputs the logit is divided by
    repetition (multiplied where it is negative); then frequency is subtracted for each time that an output was the
    token, and presence if one was. 1, 0 and 0 are off.

    `logprobs`: (wanted: int32 [rows], -1 for none, else how many of the most probable, at most width; width: a number;
    and out: token: fp32 [rows], the chosen token's; ids: int32 [rows, width], best first, ties by smaller id, -1 when
    no more can be drawn; values: fp32 [rows, width]). They are the model's own: before bias, penalties and temperature.

    u has 53 bits of Philox4x32-10 at counter (position, 0, 0, 0) and key (seed's low word, its high word): the noise is
    a function of (seed, position) alone, and a row's token does not depend on the batch. -inf logits are never drawn.
    Raises InvalidInput for a token or a biased id outside of the vocabulary, and Internal, naming the row, when its
    logits hold a NaN or their largest is infinite.
    """
