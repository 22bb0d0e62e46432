"""Move blocks of memory between processes: shared memory on one host, the network between hosts.

    import numpy as np
    from nano.transfer import Endpoint

    with Endpoint("decode") as decode, Endpoint("prefill") as prefill:
        pool = decode.allocate(1 << 20, "kv")
        source = prefill.allocate(1 << 20, "kv")
        source.array[:] = 7
        decode.expect(1, pool, np.array([0, 65536]), 4096)
        peer = prefill.connect(decode.descriptor())
        peer.write(source, "kv", np.array([0, 4096]), np.array([0, 65536]), 4096, tag=1).wait()

Needs numpy alone. docs/transfer.md explains the rules.
"""

from nano._core.transfer import Endpoint, Event, Peer, Region, Request, Transfer, VerbsOptions
from nano.transfer.mesh import Mesh

__all__ = ["Endpoint", "Event", "Mesh", "Peer", "Region", "Request", "Transfer", "VerbsOptions"]
