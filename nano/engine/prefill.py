"""The prefill side of an engine: prompts of decode engines, whose KV blocks go there while later layers compute.

A job's life: connecting -> gated (known to the scheduler, no blocks) -> asked (Ready sent) -> granted -> computing ->
sent (first token out, source blocks pinned) -> gone, by Received, Cancel, a lost peer or the lapse of the pin.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from nano import wire
from nano._core.sched import Batch, Committed
from nano.engine.comm import Comm
from nano.engine.engine import Engine
from nano.errors import InvalidInput, NanoError
from nano.transfer import Endpoint, Peer, Transfer
from nano.wire import Int32Array

log = logging.getLogger("nano.engine")

ASK_AHEAD = 4  # gated requests whose grants are asked for before they could be scheduled


@dataclass(eq=False)
class Job:
    id: int
    identity: bytes  # the decode engine's connection
    key: int
    descriptor: bytes  # its transfer endpoint
    num_tokens: int
    peer: Peer | None = None
    asked: bool = False
    tag: int = 0  # 0: not granted
    first_block: int = 0
    targets: Int32Array = field(default_factory=lambda: np.empty(0, np.int32))
    next_block: int = 0  # blocks of the prompt before this one have been posted
    transfers: list[Transfer] = field(default_factory=list)
    error: NanoError | None = None
    pinned_until: float = 0.0  # 0: still computing


@dataclass
class _Send:
    """Blocks of a job that this step completes, posted one layer group at a time."""

    job: Job
    begin: int
    sources: Int32Array


class PrefillSide:
    """Lives on the loop's thread. `next_id` numbers requests; `post` calls back on that thread from another."""

    def __init__(
        self,
        engine: Engine,
        endpoint: Endpoint,
        comm: Comm,
        next_id: Callable[[], int],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self._engine = engine
        self._endpoint = endpoint
        self._comm = comm
        self._next_id = next_id
        self._post = post
        self._jobs: dict[int, Job] = {}
        self._by_key: dict[tuple[bytes, int], Job] = {}
        self._peers: dict[bytes, Peer] = {}
        self._waiting: dict[bytes, list[Job]] = {}  # jobs by the descriptor that is being connected to
        self._connector = ThreadPoolExecutor(1, thread_name_prefix="connect")
        self._sends: list[_Send] = []
        self._layout = str(engine.layout)
        self._groups = engine.layout.groups

    def __len__(self) -> int:
        return len(self._jobs)

    # --- messages

    def on_prefill(self, identity: bytes, message: wire.Prefill) -> None:
        job = Job(self._next_id(), identity, message.key, message.descriptor, len(message.token_ids) // 4)
        if message.layout != self._layout:
            self._refuse(
                job, f"KV layouts differ: the prefill engine's is {self._layout}; the decode engine's {message.layout}"
            )
            return
        try:
            self._engine.add(job.id, wire.unpack_ids(message.token_ids), message.sampling, gated=True, hold=True)
        except InvalidInput as error:
            self._refuse(job, str(error))
            return
        self._jobs[job.id] = job
        self._by_key[identity, job.key] = job
        peer = self._peers.get(job.descriptor)
        if peer is not None:
            job.peer = peer
        elif job.descriptor in self._waiting:
            self._waiting[job.descriptor].append(job)
        else:
            self._waiting[job.descriptor] = [job]
            self._connector.submit(self._connect, job.descriptor)

    def _refuse(self, job: Job, reason: str) -> None:
        self._comm.reply(job.identity, wire.PrefillFailed(job.key, wire.Failure("invalid", reason, False)))

    def _connect(self, descriptor: bytes) -> None:
        try:
            peer = self._endpoint.connect(descriptor, timeout=5.0)
        except NanoError as error:
            failure = wire.Failure("peer_lost", f"{self._endpoint.name}: connect to the decode engine: {error}", True)
            self._post(lambda: self._connect_failed(descriptor, failure))
        else:
            self._post(lambda: self._connected(descriptor, peer))

    def _connected(self, descriptor: bytes, peer: Peer) -> None:
        self._peers[descriptor] = peer
        for job in self._waiting.pop(descriptor, []):
            job.peer = peer

    def _connect_failed(self, descriptor: bytes, failure: wire.Failure) -> None:
        for job in self._waiting.pop(descriptor, []):
            if job.id in self._jobs:
                self._fail(job, failure)

    def on_grant(self, identity: bytes, message: wire.Grant) -> None:
        job = self._by_key.get((identity, message.key))
        if job is None or job.tag:
            return  # cancelled or failed meanwhile: the decode engine has been told, or told us
        job.tag = message.tag
        job.first_block = job.next_block = message.first_block
        job.targets = wire.unpack_ids(message.blocks)
        self._engine.scheduler.open(job.id)

    def on_received(self, identity: bytes, key: int) -> None:
        job = self._by_key.get((identity, key))
        if job is not None:
            self._forget(job)
            self._engine.scheduler.release(job.id)

    def on_cancel(self, identity: bytes, key: int) -> None:
        job = self._by_key.get((identity, key))
        if job is not None:
            self._drop(job)

    def on_client_gone(self, identity: bytes) -> None:
        for job in [job for job in self._jobs.values() if job.identity == identity]:
            self._drop(job)

    def on_peer_lost(self, peer_id: int, reason: str) -> None:
        for descriptor, peer in list(self._peers.items()):
            if peer.id != peer_id:
                continue
            del self._peers[descriptor]
            failure = wire.Failure("peer_lost", f"{self._endpoint.name}: transfer to {peer.name}: {reason}", True)
            for job in [job for job in self._jobs.values() if job.peer is peer]:
                self._fail(job, failure)
            peer.close()

    # --- ends of a job

    def _forget(self, job: Job) -> None:
        del self._jobs[job.id]
        del self._by_key[job.identity, job.key]

    def _stop_sending(self, job: Job) -> None:
        """After it returns nobody reads the job's source blocks on its behalf."""
        if job.peer is not None and job.tag and any(not transfer.done() for transfer in job.transfers):
            job.peer.cancel(job.tag)
        job.transfers.clear()

    def _drop(self, job: Job) -> None:
        self._stop_sending(job)
        self._forget(job)
        self._engine.scheduler.abort(job.id)

    def _fail(self, job: Job, failure: wire.Failure) -> None:
        self._drop(job)
        self._comm.reply(job.identity, wire.PrefillFailed(job.key, failure))

    # --- around a step

    def tick(self, now: float) -> None:
        """Asks for the next grants; ends jobs whose transfer failed or whose pin lapsed."""
        waiting = sum(1 for job in self._jobs.values() if job.asked and not job.tag)
        for id in self._engine.scheduler.next_gated(ASK_AHEAD + waiting).tolist():
            job = self._jobs[id]
            if not job.asked and job.peer is not None:
                job.asked = True
                self._comm.reply(job.identity, wire.Ready(job.key))
        for job in list(self._jobs.values()):
            error = job.error or next((t.error for t in job.transfers if t.done() and t.error is not None), None)
            if error is not None:
                self._fail(job, wire.Failure("peer_lost", f"{self._endpoint.name}: KV transfer: {error}", True))
            elif job.pinned_until and now > job.pinned_until:
                reason = f"{self._endpoint.name}: KV not fetched within {self._engine.config.transfer_lease:.0f} s"
                self._fail(job, wire.Failure("deadline", reason, True))

    def before_step(self, batch: Batch) -> None:
        """Plans what `on_layer` will send of this step's blocks."""
        self._sends.clear()
        if not self._jobs:
            return
        for id in batch.preempted.tolist():
            job = self._jobs.get(id)
            if job is not None:  # its blocks may be another's in this very step
                self._stop_sending(job)
                job.next_block = job.first_block
        size = self._engine.layout.block_size
        queries = np.diff(batch.cu_query)
        for row, id in enumerate(batch.ids.tolist()):
            job = self._jobs.get(id)
            if job is None:
                continue
            context = int(batch.context_lens[row])
            before = (context - int(queries[row])) // size
            after = -(-context // size) if context >= job.num_tokens else context // size
            blocks = self._engine.scheduler.block_table(id)
            if before > job.next_block:  # found in the prefix cache: complete already
                done = _Send(job, job.next_block, blocks[job.next_block : before])
                for group in range(self._groups):
                    self._write(done, group)
                job.next_block = before
            if after > job.next_block:
                self._sends.append(_Send(job, job.next_block, blocks[job.next_block : after]))
                job.next_block = after

    def on_layer(self, layer: int) -> None:
        """Posts the group of layers that this one completes, to be read when the runner's stream comes here."""
        group, rest = divmod(layer + 1, self._engine.layout.group_layers)
        if rest == 0:
            for send in self._sends:
                self._write(send, group - 1)

    def _write(self, send: _Send, group: int) -> None:
        job, layout = send.job, self._engine.layout
        assert job.peer is not None
        index = np.arange(send.begin, send.begin + len(send.sources)) - job.first_block
        shift = group * layout.group_bytes
        job.transfers = [transfer for transfer in job.transfers if not transfer.done() or transfer.error]
        try:
            transfer = job.peer.write(
                self._engine.region,
                "kv",
                send.sources.astype(np.int64) * layout.block_bytes + shift,
                job.targets[index].astype(np.int64) * layout.block_bytes + shift,
                layout.group_bytes,
                tag=job.tag,
                pieces=(index * self._groups + group).astype(np.int32),
                timeout=self._engine.config.transfer_lease,
                stream=self._engine.runner.stream,
            )
        except NanoError as error:  # in the middle of a step: `tick` ends the job
            job.error = error
        else:
            job.transfers.append(transfer)

    def after_step(self, committed: Committed) -> None:
        """Sends first tokens; their source blocks stay pinned until the decode engine has them all."""
        logprobs = self._engine.sampled.logprobs
        for row, id in enumerate(committed.ids.tolist()):
            job = self._jobs.get(id)
            if job is not None:
                job.pinned_until = time.monotonic() + self._engine.config.transfer_lease
                token, cached = int(committed.tokens[row]), int(committed.cached[row])
                packed = None if logprobs is None else wire.pack_logprobs([logprobs.row(row)])
                self._comm.reply(job.identity, wire.FirstToken(job.key, token, cached, packed))

    def close(self) -> None:
        self._connector.shutdown(wait=True, cancel_futures=True)
        for job in list(self._jobs.values()):
            self._drop(job)
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()
