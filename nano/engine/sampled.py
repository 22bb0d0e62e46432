"""What one step sampled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nano.wire import TokenLogprobs


@dataclass(frozen=True)
class Logprobs:
    """Of the model's own distribution: before bias, penalties and temperature."""

    wanted: npt.NDArray[np.int32]  # [rows] -1: none, else how many of the most probable
    chosen: npt.NDArray[np.float32]  # [rows] the sampled token's
    ids: npt.NDArray[np.int32]  # [rows, width] the most probable tokens, best first; -1: there are no more
    values: npt.NDArray[np.float32]  # [rows, width] theirs

    def row(self, row: int) -> TokenLogprobs | None:
        """None where the row did not ask."""
        count = int(self.wanted[row])
        if count < 0:
            return None
        ids, values = self.ids[row, :count].tolist(), self.values[row, :count].tolist()
        return TokenLogprobs(
            float(self.chosen[row]), [(id, value) for id, value in zip(ids, values, strict=True) if id >= 0]
        )


@dataclass(frozen=True)
class Sampled:
    tokens: npt.NDArray[np.int32]  # [rows], in the order of Batch.sample_seqs
    logprobs: Logprobs | None = None  # None where no row asked
