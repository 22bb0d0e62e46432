from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .kv import BlockPool

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

class Batch:
    """One step's work: views of preallocated arrays, valid until the step's commit (and then as long as no `schedule`
    takes their place).

    S sequences, T tokens in all, R <= S of the sequences sample a token (those whose last known token is in the step).
    """

    step: int
    num_seqs: int
    num_tokens: int
    num_samples: int
    ids: U64  # [S]
    token_ids: I32  # [T] 0 where token_sources is not -1
    token_sources: I32  # [T] -1: token_ids has the token; r >= 0: it is the one that row r of the step before samples
    positions: I32  # [T]
    slots: I64  # [T] block * block_size + offset, where the token's K and V go
    cu_query: I32  # [S + 1] prefix sums of the query lengths
    context_lens: I32  # [S] tokens in the KV cache after this step
    block_tables: I32  # [S, W] W = the widest table in the step; rows padded with 0
    sample_rows: I32  # [R] index into the T tokens
    sample_seqs: I32  # [R] index into the S sequences
    sample_positions: I32  # [R] the position of the token being sampled (noise = f(seed, position))
    temperature: F32  # [R]
    top_p: F32  # [R]
    top_k: I32  # [R]
    min_p: F32  # [R]
    repetition_penalty: F32  # [R]
    presence_penalty: F32  # [R]
    frequency_penalty: F32  # [R]
    num_logprobs: I32  # [R] -1: none; else how many of the most probable tokens, beside the chosen one
    seeds: U64  # [R]
    penalized: I32  # the rows of R with a penalty: their logits depend on `history`
    bias_start: I64  # [R + 1] row r's logit_bias is bias_ids[bias_start[r]:bias_start[r + 1]], all different
    bias_ids: I32
    bias_values: F32
    preempted: U64  # ids preempted since the step before, to make room for this one
    def history(self, row: int) -> tuple[I32, I32]:
        """Prompt and outputs, as far as they are known, of the request that sample row `row` is of. A token that the
        step before samples is missing while that is under way: then these are sample_positions[row] - 1 tokens, not
        sample_positions[row]. Raises InvalidInput after the step's commit."""

class Committed:
    """What `commit` changed: one row a sampled token, in the order of Batch.sample_seqs; views, valid until the next
    `commit`."""

    ids: U64  # [R]
    indices: I32  # [R] the token's place among the request's outputs, from 0
    tokens: I32  # [R]
    finish: U8  # [R] 0 unfinished, 1 stop, 2 length, 3 over since `schedule` (the row is to be ignored)
    cached: I32  # [R] prompt tokens that came from the prefix cache

class Scheduler:
    """Continuous batching under one token budget: chunked prefill, preemption by recompute, priorities.

    Lives of a request: queued -> running -> finished; with `gated`, queued only after `open`; with `reserve`, receiving
    (it holds blocks whose KV another engine writes) -> `activate` -> running. Deterministic: same calls, same batches.
    Not thread-safe: one owner thread.

    Requests are served by (priority, arrival). A queued one is admitted when all of its known tokens have room above
    the watermark. When a running one needs a block and none is free, the last in that order is preempted: it gives back
    its blocks, and later recomputes prompt and outputs; no token is emitted twice. The last itself waits. A request
    ends with "stop" at a stop id (which is its last token), with "length" at max_tokens outputs or at max_model_len
    tokens in all. An unknown id, or a request in another state than the call needs, raises InvalidInput.

    With depth 2, `schedule` may be called once more before the earlier step's `commit`; commits come in the order of
    the steps. A request that samples in the step under way then goes on by one token that is not known yet
    (Batch.token_sources). A step that turns out to be beyond a stop token is void: its row has finish 3, and nothing of
    it is emitted, counted or cached. Blocks of a request that ended are free after the commit of the last step that
    touches them. A request whose blocks are needed by another first sits one step out, and is then preempted with all
    of its tokens known. Calls that alternate strictly give the same batches as with depth 1.
    """

    def __init__(
        self,
        pool: BlockPool,
        max_num_batched_tokens: int,
        max_num_seqs: int,
        max_model_len: int,
        watermark: float = 0.01,  # share of the pool kept free for the growth of running requests
        max_reserved: float = 0.2,  # share of the pool that unstarted reservations may hold
        depth: int = 1,  # steps that may be under way at once: 1 or 2
    ) -> None: ...
    in_flight: int  # steps between their `schedule` and their `commit`
    def add(
        self,
        id: int,
        tokens: I32,
        max_tokens: int,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,  # keeps what has this share of the most probable token's probability
        repetition_penalty: float = 1.0,  # of prompt and outputs
        presence_penalty: float = 0.0,  # of outputs
        frequency_penalty: float = 0.0,  # of outputs
        logit_bias: Mapping[int, float] = {},
        logprobs: int = -1,  # most probable tokens to report beside the chosen one; -1: nothing
        seed: int = 0,
        min_tokens: int = 0,  # stop ids are not obeyed before this many outputs
        stop_ids: Sequence[
            int
        ] = (),  # EOS and other ids that end the request (the caller leaves EOS out for ignore_eos)
        priority: int = 0,  # smaller first; equal priorities first come, first served
        gated: bool = False,  # not schedulable until `open`
        hold: bool = False,  # keeps its blocks after it finishes, until `release`
        salt: int = 0,
    ) -> None:
        """Raises InvalidInput (nothing changed): empty prompt, duplicate id, prompt + 1 > max_model_len, or a request
        that could never fit the pool even alone: blocks for min(prompt + max_tokens, max_model_len) > the pool less the
        watermark. The text has both numbers. `salt` separates prefix caches."""
    def open(self, id: int) -> None:
        """Lets a gated request be scheduled; it keeps its place by arrival."""
    def reserve(self, id: int, tokens: I32, max_tokens: int, **sampling: object) -> tuple[int, I32] | None:
        """Blocks for a whole prompt whose KV arrives from elsewhere, as `(first_block, block_ids)`: the leading
        `first_block` prompt blocks were found in the prefix cache, `block_ids` are for the rest, in order. None when
        the pool has no room now (watermark, `max_reserved`, or too many sequences). Keywords as `add`, less `gated`.
        A reservation that is the only one may exceed `max_reserved`, so that a long prompt gets its turn."""
    def activate(self, id: int, first_token: int) -> int:
        """The reservation's KV is complete (its full blocks enter the prefix index) and its first token is known
        (output index 0). The request runs on: 0; or it is over with that token, and gone (or held): 1 or 2."""
    def recompute(self, id: int) -> None:
        """Turns a reservation into an ordinary queued request, whose KV this engine computes itself. Its blocks are
        free at once: nobody may write into them any more. The same holds for `abort`."""
    def abort(self, id: int) -> bool:
        """Ends a request in any state and frees its blocks, held ones too; False when it is not known. If steps under
        way touch its blocks, they are free at the `commit` of the last of those."""
    def release(self, id: int) -> None:
        """Frees the blocks of a finished request that was added with hold."""
    def schedule(self) -> Batch | None:
        """The next step, or None when nothing can run (before the next `commit`, if a step is under way). Decoding
        sequences first, then waiting prompts in chunks."""
    def commit(self, tokens: I32) -> Committed:
        """The sampled tokens of the oldest step under way, in the order of its `Batch.sample_seqs`. Exactly one commit
        follows each schedule. A request that ended in between is ignored: its row has finish 3. Full blocks enter the
        prefix index here."""
    def has_work(self) -> bool:
        """Is anything queued or running? `schedule` may still return None with no step under way: then only `release`,
        `abort` or `activate` can make room. Without work, steps that are void may still be under way."""
    def next_gated(self, count: int) -> U64:
        """The first `count` gated requests in the order in which they would be scheduled."""
    def block_table(self, id: int) -> I32:
        """A copy of the request's blocks, in order; empty while it is queued."""
    def num_computed(self, id: int) -> int:
        """Tokens of the request whose KV is in its blocks (committed)."""
    def stats(self) -> dict[str, int]:
        """waiting, gated, running, reserved, held, free_blocks, and totals since the start: preemptions,
        prefix_hit_tokens, split_chunks (steps that ended within a prompt), steps."""
    def check(self) -> None:
        """Raises Internal when an invariant is broken (tests)."""
