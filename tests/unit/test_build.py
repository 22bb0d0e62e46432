"""What the build does about CUDA, with a compiler, without one, and with one that does not work."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CMAKE = shutil.which("cmake", path=os.path.dirname(sys.executable)) or shutil.which("cmake")

needs_cmake = pytest.mark.skipif(CMAKE is None, reason="no cmake")


def configure(build: Path, mode: str, **environment: str) -> subprocess.CompletedProcess[str]:
    assert CMAKE is not None
    command = [CMAKE, "-S", str(ROOT), "-B", str(build), f"-DNANO_CUDA={mode}", f"-DPython_EXECUTABLE={sys.executable}"]
    path = os.pathsep.join([os.path.dirname(sys.executable), environment.pop("PATH", ""), os.environ["PATH"]])
    return subprocess.run(
        command, capture_output=True, text=True, timeout=110, env=os.environ | {"PATH": path} | environment
    )


def broken_nvcc(folder: Path) -> str:
    nvcc = folder / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'nvcc fatal: broken' >&2\nexit 1\n")
    nvcc.chmod(0o755)
    return str(folder)


def warnings(result: subprocess.CompletedProcess[str]) -> list[str]:
    lines = (result.stdout + result.stderr).splitlines()
    return [line for line in lines if "warning" in line.lower()]


@needs_cmake
def test_auto_goes_on_without_a_working_compiler_and_says_so_in_one_line(tmp_path: Path) -> None:
    result = configure(tmp_path / "build", "auto", PATH=broken_nvcc(tmp_path), CUDACXX="")
    assert result.returncode == 0, result.stderr
    (line,) = warnings(result)
    assert f"building without CUDA kernels: {tmp_path}/nvcc does not compile for 90a-real;90-virtual" in line
    assert "CUDA" in (tmp_path / "build" / "cuda_probe.log").read_text()


@needs_cmake
def test_auto_goes_on_when_the_compiler_answers_but_compiles_nothing(tmp_path: Path) -> None:
    real = shutil.which("nvcc")
    if real is None:
        pytest.skip("no nvcc on PATH")
    nvcc = tmp_path / "nvcc"
    script = f'#!/bin/sh\ncase "$*" in *probe.cu*) echo \'nvcc fatal: broken\' >&2; exit 1;; esac\nexec {real} "$@"\n'
    nvcc.write_text(script)
    nvcc.chmod(0o755)
    result = configure(tmp_path / "build", "auto", CUDACXX=str(nvcc))
    assert result.returncode == 0, result.stderr
    (line,) = warnings(result)
    assert f"building without CUDA kernels: {nvcc} does not compile" in line
    assert "nvcc fatal: broken" in (tmp_path / "build" / "cuda_probe.log").read_text()


@needs_cmake
def test_auto_takes_the_compiler_that_cudacxx_names(tmp_path: Path) -> None:
    result = configure(tmp_path, "auto", CUDACXX="/bin/false")
    assert result.returncode == 0, result.stderr
    (line,) = warnings(result)
    assert "building without CUDA kernels: /bin/false does not compile" in line


@needs_cmake
def test_on_ends_the_build_without_a_working_compiler(tmp_path: Path) -> None:
    result = configure(tmp_path, "on", CUDACXX="/bin/false")
    assert result.returncode != 0
    assert "NANO_CUDA=on: /bin/false does not compile" in " ".join(result.stderr.split())


@needs_cmake
def test_off_looks_for_no_compiler(tmp_path: Path) -> None:
    result = configure(tmp_path, "off", CUDACXX="/bin/false")
    assert result.returncode == 0, result.stderr
    assert warnings(result) == []


@needs_cmake
def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    result = configure(tmp_path, "yes")
    assert result.returncode != 0
    assert 'NANO_CUDA: expected auto, on or off, got "yes"' in result.stderr


def test_the_cuda_module_imports_and_counts_devices_without_a_driver() -> None:
    cuda = pytest.importorskip("nano._cuda", reason="nano was built without CUDA")
    assert cuda.device_count() >= 0
    if cuda.device_count() == 0:
        from nano.errors import InvalidInput, SystemFault

        cuda.gather(0, 0, 0, 0, 16)  # nothing to copy: nothing to ask of a driver
        with pytest.raises(InvalidInput, match="gather: count: expected >= 0, got -1"):
            cuda.gather(0, 0, 0, -1, 16)
        with pytest.raises(SystemFault, match=r"gather: offsets .*: cuda"):
            cuda.gather(0, 0, 0, 1, 16)


@pytest.mark.skipif(not shutil.which("nm"), reason="no nm")
@pytest.mark.parametrize("name", ["nano._core", "nano.router._text"])
def test_a_native_module_binds_no_symbol_to_another_module_s_copy(name: str) -> None:
    """Unique symbols, as the locale ids of a static C++ library are, are shared with all that the process loads."""
    file = str(importlib.import_module(name).__file__)
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", file], capture_output=True, text=True, check=True, timeout=30
    ).stdout.split("\n")
    assert any(line.endswith(f" T PyInit_{name.split('.')[-1]}") for line in symbols)
    assert not [line for line in symbols if " u " in line]
