from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from nano.errors import NanoError

# One integer, or one dimension of them; int32 and int64 arrays are taken as they are.
_Indices = int | npt.NDArray[np.integer[Any]] | Sequence[int]

class Transfer:
    """The future of one operation. It always ends: by success, by an error, or by its own deadline."""

    def done(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> None:
        """Waits until it has ended, at most `timeout` seconds, and raises its error if it has one.

        Raises DeadlineExceeded when `timeout` passes first; the operation then goes on.
        """

    @property
    def error(self) -> NanoError | None:
        """What it ended with; None while it runs and after success."""

    def add_done_callback(self, fn: Callable[[Transfer], object]) -> None:
        """Calls fn(self) at once when it has ended, else in the thread that ends it.

        That thread moves everybody's data: fn must be short, and neither wait for a Transfer nor close the endpoint.
        """

    def __await__(self) -> Generator[Any]:
        """In any running asyncio loop: waits until it has ended, and raises its error if it has one."""

class Request:
    """A write or read that was checked once; it holds its region and its peer."""

    def post(self, stream: int | None = None) -> Transfer:
        """Starts it, at no cost per block; its timeout begins now. Posts do not exclude each other.

        Raises Closed when the region was closed, Closed or PeerLost when the connection is over.
        """

    @property
    def blocks(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class Region:
    """A named run of bytes that peers may address. Closed with its last reference, its arrays included."""

    @property
    def name(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def address(self) -> int: ...
    @property
    def huge_pages(self) -> Literal["hugetlb", "transparent", "none"]:
        """What the kernel has put under allocated memory."""

    @property
    def device(self) -> int | None:
        """The CUDA device whose memory it is; None: the host's."""

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """uint8 [nbytes], the bytes themselves; keeps the region open. Raises InvalidInput for GPU memory."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """GPU memory as uint8 [nbytes], for torch.as_tensor and cupy.asarray, which keep the region open.

        Raises AttributeError for host memory.
        """

    def dma_buf(self) -> int:
        """A dma-buf descriptor of GPU memory, for other devices to register; the caller closes it.

        address and nbytes must be multiples of the page size. Raises SystemFault where the device has none to give.
        """

    def close(self) -> None:
        """After it returns nothing writes to or reads from the bytes for a peer. Idempotent."""

    def __enter__(self) -> Region: ...
    def __exit__(self, *args: object) -> None: ...

class Peer:
    """One connection to another endpoint. It lives until either side closes it or is gone."""

    @property
    def id(self) -> int:
        """Unique within the endpoint, never reused."""

    @property
    def name(self) -> str: ...
    @property
    def transport(self) -> str:
        """The fastest one in use; operations whose memory it does not reach use the next."""

    @property
    def transports(self) -> list[tuple[str, str]]:
        """(name, why it is not used) of every transport that either side offers, fastest first; "" when it is used.
        The last is the socket: "unix" or "tcp"."""

    @property
    def streams(self) -> int:
        """The sockets that carry its operations."""

    @property
    def closed(self) -> bool: ...
    def write(
        self,
        region: Region,
        remote: str,
        src: _Indices,
        dst: _Indices,
        length: int,
        tag: int = 0,
        pieces: _Indices | None = None,
        timeout: float = 30.0,
        *,
        imm: int | None = None,
        src_base: int = 0,
        src_stride: int = 1,
        dst_base: int = 0,
        dst_stride: int = 1,
        stream: int | None = None,
    ) -> Transfer:
        """Copies blocks of `region` into the peer's region named `remote`.

        src, dst: [n] where each block begins: base + index * stride, in bytes. length: bytes of each block; timeout:
        seconds until the operation fails. Blocks that are neighbours on both sides travel as one.
        With a tag, block i is piece pieces[i] (default: i) of what the peer expects; the peer refuses a piece at any
        place but the expected one, and a piece that is there already is not written again.
        imm: 32 bits that the peer gets as an Event of kind "written" once every block has landed.
        stream: a CUDA stream (cudaStream_t as an integer) of the region's device: the blocks are read when it has done
        all that it holds now. It waits for nothing itself.
        The Transfer ends with Refused (naming the refused position), DeadlineExceeded, PeerLost or Closed.
        Raises InvalidInput for offsets outside `region`, Closed or PeerLost when the connection is over.
        """

    def read(
        self,
        region: Region,
        remote: str,
        dst: _Indices,
        src: _Indices,
        length: int,
        timeout: float = 30.0,
        *,
        dst_base: int = 0,
        dst_stride: int = 1,
        src_base: int = 0,
        src_stride: int = 1,
        stream: int | None = None,
    ) -> Transfer:
        """Copies blocks of the peer's region named `remote` into `region`. Arguments and errors are those of write."""

    def prepare_write(
        self,
        region: Region,
        remote: str,
        src: _Indices,
        dst: _Indices,
        length: int,
        tag: int = 0,
        pieces: _Indices | None = None,
        timeout: float = 30.0,
        *,
        imm: int | None = None,
        src_base: int = 0,
        src_stride: int = 1,
        dst_base: int = 0,
        dst_stride: int = 1,
    ) -> Request:
        """The write as something to post many times. Arguments are those of write; only InvalidInput is raised."""

    def prepare_read(
        self,
        region: Region,
        remote: str,
        dst: _Indices,
        src: _Indices,
        length: int,
        timeout: float = 30.0,
        *,
        dst_base: int = 0,
        dst_stride: int = 1,
        src_base: int = 0,
        src_stride: int = 1,
    ) -> Request:
        """The read as something to post many times. Arguments are those of read; only InvalidInput is raised."""

    def send(self, data: bytes, timeout: float = 30.0) -> Transfer:
        """Sends a message of at most 1 MiB; it arrives as an Event of kind "message", in order among messages.

        The Transfer ends when the peer's endpoint has it. Raises InvalidInput, and Closed or PeerLost when the
        connection is over.
        """

    def flush(self) -> Transfer:
        """Ends when every operation that was posted to this peer before has, with the first error among them."""

    def cancel(self, tag: int) -> None:
        """Ends this side's writes of the tag with Closed. After it returns their sources are not read any more;
        a peer that does not let go of them within two seconds is lost."""

    def close(self) -> None:
        """Ends the connection; pending operations fail with Closed. Idempotent."""

    def __enter__(self) -> Peer: ...
    def __exit__(self, *args: object) -> None: ...

class Event:
    """kind "complete": the last piece of `tag` came. "joined": `peer` connected. "message": `data` from `peer`.
    "written": a write of `peer` with `imm` (and `tag`, if it had one) has landed.
    "lost": `peer` is gone, `reason` says how."""

    @property
    def kind(self) -> Literal["complete", "lost", "joined", "message", "written"]: ...
    @property
    def peer(self) -> Peer | None: ...
    @property
    def tag(self) -> int: ...
    @property
    def imm(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def reason(self) -> str: ...

class VerbsOptions:
    """How an endpoint uses its RDMA devices.

    mtu: bytes of a packet, 256 to 4096 in powers of two; 0: the largest; of two sides the smaller counts. gid_index:
    the entry of each port's GID table; None: RoCE v2 over IPv4 first. traffic_class: 0 to 255, DSCP in its upper six
    bits. hop_limit: 64 to 255; for RoCE Linux takes its route's instead. timeout: of one try, 4.096 us * 2**timeout,
    1 to 31. retries: 1 to 6; 7 and 0 do not mean the same on every device. queue_pairs: for each pair of devices,
    1 to 16; of two sides the connecting one's counts. relaxed_ordering: lets PCIe reorder writes of the data, where the
    system knows how.
    Raises InvalidInput naming the option.
    """

    def __init__(
        self,
        *,
        mtu: int = 0,
        gid_index: int | None = None,
        traffic_class: int = 0,
        hop_limit: int = 64,
        timeout: int = 14,
        retries: int = 6,
        queue_pairs: int = 2,
        relaxed_ordering: bool = True,
    ) -> None: ...
    @property
    def mtu(self) -> int: ...
    @property
    def gid_index(self) -> int | None: ...
    @property
    def traffic_class(self) -> int: ...
    @property
    def hop_limit(self) -> int: ...
    @property
    def timeout(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def queue_pairs(self) -> int: ...
    @property
    def relaxed_ordering(self) -> bool: ...

class Endpoint:
    """What a process opens to move memory to and from others: one thread, one port.

    name: what peers see; "": the host's name and the process's number. host, port: where TCP listens; 0 takes a free
    port. transports: those offered and used; None: all. secret: shared by all endpoints of a cluster; a host other than
    loopback needs it, or insecure=True. devices: the RDMA devices to use; None: all. verbs: how. advertise: the host in
    the descriptor, when it is not `host`. streams: TCP sockets of a connection, 1 to 16, of which both sides take the
    smaller number; None: as many as the connecting side asks for, and when connecting 1 on one host, 4 between hosts.
    spin: seconds that the thread polls after activity before it sleeps. heartbeat, silence: seconds between signs of
    life, and after how long without one a peer is lost.
    Raises Refused, InvalidInput, SystemFault.
    """

    def __init__(
        self,
        name: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
        transports: Sequence[str] | None = None,
        secret: bytes | None = None,
        insecure: bool = False,
        *,
        devices: Sequence[str] | None = None,
        verbs: VerbsOptions = ...,
        advertise: str | None = None,
        streams: int | None = None,
        spin: float = 50e-6,
        heartbeat: float = 1.0,
        silence: float = 10.0,
        _faults: str = "",  # of tests: csrc/transfer/fault_script.h
    ) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    def descriptor(self) -> bytes:
        """How to reach this endpoint; for connect() of any other."""

    def allocate(self, nbytes: int, name: str, huge_pages: bool = True, device: str = "cpu") -> Region:
        """Zeroed memory that processes of this host can map: the fast path for both sides.

        huge_pages: of 2 MiB where the kernel has some to spare; Region.huge_pages says what came of it. device: "cpu",
        "cuda" or "cuda:N": GPU memory is one virtual range, which stays readable for others when this process dies.
        Raises OutOfMemory; SystemFault where there is no CUDA driver or device.
        """

    def register(self, buffer: Buffer | tuple[int, int] | Any, name: str) -> Region:
        """Makes memory addressable: a contiguous buffer (numpy, memoryview, bytearray), a contiguous tensor of torch,
        anything with the CUDA array interface, or (address, nbytes). What is read-only can only be read.

        It is kept alive; memory given by its address must outlive the region.
        """

    def connect(self, descriptor: bytes, timeout: float = 5.0, transports: Sequence[str] | None = None) -> Peer:
        """Connects to another endpoint, by the fastest transports that both sides have. timeout in seconds.

        Raises Refused (secret, version, no transport in common), PeerLost, DeadlineExceeded.
        """

    def expect(self, tag: int, region: Region, offsets: _Indices, length: int) -> None:
        """Lets piece i of `tag` (not 0) land at region[offsets[i] : offsets[i] + length], once, and nowhere else."""

    def missing(self, tag: int) -> npt.NDArray[np.int32]:
        """The pieces that have not landed. Raises Closed when the tag is not expected."""

    def landed(self, tag: int) -> npt.NDArray[np.int64]:
        """[pieces] when each landed, as time.monotonic_ns(); 0: not yet. Raises Closed when the tag is not expected."""

    def forget(self, tag: int) -> None:
        """After it returns nothing writes to the tag's blocks any more. Unknown tags are ignored."""

    def poll(self) -> list[Event]:
        """What happened since the last call, in order. Refused strangers and losses go to the log "nano.transfer"."""

    def fileno(self) -> int:
        """A descriptor that is readable while poll() has something to return."""

    def close(self) -> None:
        """Ends all connections, regions and tags, and the thread. Idempotent."""

    def __enter__(self) -> Endpoint: ...
    def __exit__(self, *args: object) -> None: ...

def streaming_copy_name() -> str:
    """The instruction set of the non-temporal copy on this CPU."""

def copy_limit(
    dst: Buffer,
    src: Buffer,
    dst_offsets: npt.NDArray[np.int64],
    src_offsets: npt.NDArray[np.int64],
    length: int,
    streaming: bool,
) -> None:
    """Copies blocks in the calling thread and does nothing else: what a benchmark compares shm with."""

def parse_descriptor(descriptor: bytes) -> tuple[str, str, int, str, str]:
    """(name, host, port, host_id, unix socket) of an endpoint; host and socket are empty where it has none.

    host_id: equal for two endpoints of one running kernel. Raises InvalidInput, Refused (another protocol version).
    """

def address_descriptor(host: str, port: int) -> bytes:
    """A descriptor for the endpoint whose TCP port that is. Raises InvalidInput."""
