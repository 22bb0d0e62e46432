"""Every test here needs a CUDA device; without one each is skipped, with the reason."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def device() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
