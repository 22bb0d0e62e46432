"""An engine that a GPU has no room for says why before it serves, and what it advises works."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from nano.demo.random_checkpoint import make_config  # noqa: E402
from nano.engine.config import EngineConfig  # noqa: E402
from nano.engine.engine import Engine  # noqa: E402
from nano.errors import OutOfMemory  # noqa: E402

pytestmark = pytest.mark.gpu

GIB = 1 << 30


@pytest.fixture(autouse=True)
def nothing_of_others() -> Iterator[None]:
    gc.collect()
    torch.cuda.empty_cache()
    yield
    gc.collect()
    torch.cuda.empty_cache()


def start(path: Path, **options: Any) -> Engine:
    return Engine(EngineConfig(str(path), device="cuda", load_format="dummy", **options))


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(OutOfMemory) as raised:
        start(path, **options)
    print(raised.value)
    return str(raised.value)


def test_the_share_that_a_refusal_advises_is_enough(tmp_path: Path) -> None:
    path = make_config(tmp_path, preset="0.6B")
    if torch.cuda.mem_get_info()[1] * 0.05 > 5 << 30:
        pytest.skip("0.05 of this device, the least share, holds the weights and one request's 4.4 GiB of KV")
    text = refusal(path, gpu_memory_utilization=0.05, max_model_len=40960)
    assert "weights 1.11 GiB" in text
    advice = re.search(r"raise it to (0\.\d\d)", text)
    assert advice is not None
    engine = start(path, gpu_memory_utilization=float(advice[1]), max_model_len=40960)
    assert engine.max_model_len == 40960
    engine.close()


def test_what_an_engine_takes_stays_within_its_share(tmp_path: Path) -> None:
    before, total = torch.cuda.mem_get_info()
    engine = start(make_config(tmp_path, preset="0.6B"), gpu_memory_utilization=0.45)
    taken = before - torch.cuda.mem_get_info()[0]
    print(f"0.45 of {total / GIB:.1f} GiB are {0.45 * total / GIB:.1f}: took {taken / GIB:.1f}")
    assert 0.8 * 0.45 * total <= taken <= 0.45 * total
    engine.close()


def test_a_gpu_that_others_fill_refuses_the_weights_at_once(tmp_path: Path) -> None:
    others = torch.empty(torch.cuda.mem_get_info()[0] - 8 * GIB, dtype=torch.uint8, device="cuda")
    text = refusal(make_config(tmp_path, preset="8B"))
    assert re.match(r"cuda: weights need 15\.26 GiB, of .* GiB [78]\.\d\d GiB are free: end other processes", text)
    del others


def test_activations_that_do_not_fit_name_the_option(tmp_path: Path) -> None:
    text = refusal(make_config(tmp_path, preset="0.6B"), max_num_batched_tokens=1 << 23)
    assert re.search(r"activations of 8388608 tokens .* lower --max_num_batched_tokens", text)
