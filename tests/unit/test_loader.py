"""Weights from safetensors into views of any dtype and layout, in parallel; and made-up ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from nano.engine import loader
from nano.engine.checkpoint import Checkpoint, Entry
from nano.errors import InvalidInput

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def empty_like(tensors: dict[str, torch.Tensor], device: str = "cpu") -> dict[str, torch.Tensor]:
    return {name: torch.full_like(t, torch.nan, device=device) for name, t in tensors.items()}


def some() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a.weight": torch.randn(300, 17), "b": torch.randn(5).bfloat16(), "c.weight": torch.randn(2, 3, 4)}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_target_gets_its_tensor(tmp_path: Path, device: str) -> None:
    tensors = some()
    save_file(tensors, tmp_path / "model.safetensors")
    targets = empty_like(tensors, device)
    told: list[tuple[str, int, int]] = []
    loader.load(tmp_path, targets, lambda *what: told.append(what))
    for name, tensor in tensors.items():
        assert torch.equal(targets[name].cpu(), tensor)
    total = sum(t.nbytes for t in tensors.values())
    assert told[-1] == ("weights", total, total)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_shards_spans_dtypes_and_slices_do_not_matter(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path_factory.mktemp("checkpoint")
    monkeypatch.setattr(loader, "PIECE_BYTES", data.draw(st.sampled_from([4096, 8192, 1 << 20])))
    monkeypatch.setattr(loader, "STAGING_BYTES", data.draw(st.sampled_from([1, 64, 1000, 1 << 20])))
    targets, expected, shards = {}, {}, data.draw(st.integers(1, 3))
    for shard in range(shards):
        tensors = {}
        for i in range(data.draw(st.integers(1, 5))):
            shape = tuple(data.draw(st.lists(st.integers(1, 9), max_size=3)))
            tensor = torch.randn(shape).to(data.draw(st.sampled_from(DTYPES)))
            name = f"shard{shard}.{i}"
            tensors[name] = tensor
            dtype = data.draw(st.sampled_from(DTYPES))
            whole = torch.full((*shape, 2), torch.nan, dtype=dtype)
            view = whole[..., 0] if data.draw(st.booleans()) else torch.full(shape, torch.nan, dtype=dtype)
            targets[name], expected[name] = view, tensor.to(dtype)
        save_file(tensors, path / f"model-{shard}.safetensors")
    loader.load(path, targets)
    for name, tensor in expected.items():
        assert torch.equal(targets[name], tensor)


@pytest.mark.parametrize("device", DEVICES)
def test_slices_of_one_fused_weight_are_filled_side_by_side(tmp_path: Path, device: str) -> None:
    parts = {f"{part}_proj.weight": torch.randn(rows, 64) for part, rows in (("q", 128), ("k", 32), ("v", 32))}
    save_file(parts, tmp_path / "model.safetensors")
    fused = torch.zeros(192, 64, dtype=torch.bfloat16, device=device)
    rows = dict(zip(parts, fused.split([128, 32, 32]), strict=True))
    loader.load(tmp_path, rows)
    assert torch.equal(fused.cpu(), torch.cat(list(parts.values())).bfloat16())


@pytest.mark.parametrize("device", DEVICES)
def test_fp8_weights_arrive_bit_for_bit(tmp_path: Path, device: str) -> None:
    bits = torch.arange(256, dtype=torch.uint8).repeat(40).view(80, 128)
    tensors = {"w.weight": bits.view(torch.float8_e4m3fn), "w.weight_scale_inv": torch.rand(1, 1).bfloat16()}
    save_file(tensors, tmp_path / "model.safetensors")
    weight = torch.zeros(80, 128, dtype=torch.float8_e4m3fn, device=device)
    scale = torch.zeros(1, 1, device=device)
    loader.load(tmp_path, {"w.weight": weight, "w.weight_scale_inv": scale})
    assert torch.equal(weight.view(torch.uint8).cpu(), bits)
    assert torch.equal(scale.cpu(), tensors["w.weight_scale_inv"].float())


def test_wrong_weights_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    tensors = some()
    save_file(tensors, tmp_path / "model.safetensors")

    def refused(match: str, **changes: torch.Tensor | None) -> None:
        targets = empty_like(tensors)
        for name, target in changes.items():
            if target is None:
                del targets[name]
            else:
                targets[name] = target
        with pytest.raises(InvalidInput, match=match):
            loader.load(tmp_path, targets)
        assert all(bool(torch.isnan(t.float()).all()) for name, t in targets.items() if name not in changes)

    refused("unknown weight b", b=None)
    refused(r"b: expected \(6,\), got \(5,\)", b=torch.zeros(6))
    refused("1 weights are missing: more", more=torch.zeros(2))
    refused("b: expected torch.float8_e4m3fn, got BF16", b=torch.zeros(5, dtype=torch.float8_e4m3fn))


def test_tied_heads_and_rotary_tables_are_ignored(tmp_path: Path) -> None:
    tensors = some()
    save_file(
        tensors | {"lm_head.weight": torch.ones(3), "model.rotary_emb.inv_freq": torch.ones(3)},
        tmp_path / "model.safetensors",
    )
    targets = empty_like(tensors)
    loader.load(tmp_path, targets)
    assert torch.equal(targets["b"], tensors["b"])


def test_broken_files_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(InvalidInput, match=r"no \*.safetensors files"):
        Checkpoint(tmp_path)
    save_file(some(), file)
    whole = file.read_bytes()
    for content, match in (
        (whole[:-1], "of a file of"),
        (whole[:40], "not a safetensors file"),
        (b"\xff" * 3, "not a safetensors file"),
        ((8).to_bytes(8, "little") + b"[1, 2, 3", "not a safetensors header"),
        ((8).to_bytes(8, "little") + b'{"a":[]}', "not a safetensors header"),
    ):
        file.write_bytes(content)
        with pytest.raises(InvalidInput, match=match):
            Checkpoint(tmp_path)
    index = {"weight_map": {"a": "model.safetensors", "b": "gone.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidInput, match=r"missing weight files .*gone"):
        Checkpoint(tmp_path)


def test_a_reader_that_fails_ends_the_load_with_its_error(tmp_path: Path) -> None:
    tensors = some()
    save_file(tensors, tmp_path / "model.safetensors")
    targets = empty_like(tensors)

    def cut(stage: str, done: int, total: int) -> None:
        raise RuntimeError(f"after {done}")

    with pytest.raises(RuntimeError, match="after"):
        loader.load(tmp_path, targets, cut)


@pytest.mark.parametrize("device", DEVICES)
def test_a_file_that_shrinks_while_it_is_read_is_named(
    tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.safetensors"
    tensors = {"w": torch.randn(512, 512)}
    save_file(tensors, file)

    def then_shrink(checkpoint: Checkpoint, targets: dict[str, torch.Tensor]) -> dict[str, Entry]:
        found = match(checkpoint, targets)
        with file.open("r+b") as opened:
            opened.truncate(500_000)
        return found

    match = loader._match
    monkeypatch.setattr(loader, "_match", then_shrink)
    with pytest.raises(InvalidInput, match=r"model\.safetensors: ends at 500000"):
        loader.load(tmp_path, empty_like(tensors, device))


def test_dummy_weights_are_small_repeatable_and_fill_all(device: str) -> None:
    def make(seed: int) -> dict[str, torch.Tensor]:
        fused = torch.full((4, 64, 256), torch.nan, dtype=torch.bfloat16, device=device)
        fp8 = torch.full((256, 256), torch.nan, device=device).to(torch.float8_e4m3fn)
        targets = {f"experts.{e}.weight": fused[e] for e in range(4)}
        targets |= {
            "norm.weight": torch.zeros(64, device=device),
            "q.weight": fp8[:128],
            "k.weight": fp8[128:],
            "q.weight_scale_inv": torch.zeros(1, 2, device=device),
            "odd.weight": torch.full((64, 64), torch.nan, device=device).T,
        }
        loader.dummy(targets, seed)
        return targets

    first, again, other = make(1), make(1), make(2)
    for name, target in first.items():
        values = target.float()
        assert torch.equal(values, again[name].float())
        assert bool(values.isfinite().all())
        if name == "norm.weight":
            assert bool((values == 1).all())
        elif not name.endswith("scale_inv"):
            assert not torch.equal(values, other[name].float())
            scale = float(first["q.weight_scale_inv"][0, 0]) if target.dtype == loader.FP8 else 1.0
            assert 0.018 < float(values.std()) * scale < 0.022
            assert abs(float(values.mean())) * scale < 0.002
    assert not torch.equal(first["experts.0.weight"], first["experts.1.weight"])
