from collections.abc import Sequence

class Loading:
    """Runs of files on their way into memory: by `threads` that read pieces of at most `piece_bytes` (a multiple of
    4,096) and, for a GPU, each copy them up from `slots` pieces of page-locked memory of their own.

    Begins at once. The memory must be ready for use, and stay until it is done or closed. Raises SystemFault for a file
    that does not open, InvalidInput for a device that is not there.
    """

    def __init__(
        self,
        files: Sequence[str],
        runs: Sequence[tuple[int, int, int, int]],  # file (an index), offset in it, bytes, address that they go to
        *,
        device: int | None,  # the CUDA device whose memory the addresses are; None: the host's
        threads: int,
        piece_bytes: int,
        slots: int,
    ) -> None: ...
    def wait(self, seconds: float) -> bool:
        """Whether all is done, after at most `seconds`.

        Raises what a reader met, once all have stopped: InvalidInput for a file that ends too early, SystemFault.
        """

    def close(self) -> None:
        """Stops after the pieces in hand, and waits for that. Idempotent."""

    @property
    def done(self) -> int:
        """Bytes read so far."""
