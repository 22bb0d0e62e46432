"""Flags, the configuration file, and what becomes of them."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nano.ctrl.ports import check_free
from nano.errors import InvalidInput
from nano.serve import cpus, plan
from nano.serve.options import parse


def argument(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_without_arguments_one_prefill_and_one_decode_engine_serve_the_demo() -> None:
    options = parse([])
    assert (options.prefill, options.decode, options.hybrid, options.names) == (1, 1, 0, ("demo",))
    assert (options.host, options.port) == ("127.0.0.1", 8080)
    made = plan.make(options, "unix:///r.sock")
    assert [engine.name for engine in made.engines] == ["prefill-0", "decode-0"]
    assert argument(made.engines[0].argv, "--mode") == "prefill"
    assert argument(made.engines[0].argv, "--served_model_name") == "demo"
    assert Path(argument(made.engines[0].argv, "--model")).name == "demo"


def test_underscores_and_dashes_are_one_flag() -> None:
    assert parse(["--served_model_name", "a,b"]) == parse(["--served-model-name", "a,b"])
    assert parse(["--kvcache_block_size", "16"]) == parse(["--kvcache-block-size", "16"])


def test_a_model_is_called_what_model_was_given_unless_named() -> None:
    assert parse(["--model", "some/dir"]).names == ("some/dir",)
    assert parse(["--model", "some/dir", "--served_model_name", "x,y"]).names == ("x", "y")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--hybrid"], ["hybrid-0"]),
        (["--hybrid", "2"], ["hybrid-0", "hybrid-1"]),
        (["--prefill", "2", "--decode", "3"], ["prefill-0", "prefill-1", "decode-0", "decode-1", "decode-2"]),
        (["--prefill", "0"], ["decode-0"]),
    ],
)
def test_the_engines_are_those_that_were_asked_for(arguments: list[str], names: list[str]) -> None:
    assert [engine.name for engine in plan.make(parse(arguments), "unix:///r").engines] == names


def test_engine_flags_are_passed_on_and_defaults_are_not() -> None:
    given = ["--kvcache_block_size", "16", "--max-num-seqs=8", "--dtype", "float32", "--prefix_caching", "false"]
    options = parse([*given, "--transports", "tcp", "--max_num_batched_tokens", "2048"])
    assert options.engine_flags == (
        "--dtype", "float32", "--kvcache_block_size", "16", "--max_num_seqs", "8", "--prefix_caching", "false",
        "--transports", "tcp",
    )  # fmt: skip


def test_engines_accept_every_flag_they_are_given() -> None:
    from nano.engine.__main__ import parse as parse_engine

    options = parse(["--local_prefill_tokens", "7", "--transports", "shm", "--prefix_caching", "no", "--threads", "3"])
    for engine in plan.make(options, "unix:///r.sock").engines:
        flags = parse_engine(list(engine.argv[3:]))
        assert (flags.name, flags.mode) == (engine.name, engine.name.split("-")[0])
        assert (flags.local_prefill_tokens, flags.transports, flags.prefix_caching) == (7, ("shm",), False)
        assert (flags.threads, flags.nanoctrl_address) == (3, "unix:///r.sock")


def test_the_file_s_keys_are_flags_and_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('served-model-name = ["a", "b"]\nport = 9000\nhybrid = true\nprefix_caching = false\ngrace = 1.5\n')
    options = parse(["--config", str(file)])
    assert (options.names, options.port, options.hybrid, options.grace) == (("a", "b"), 9000, 1, 1.5)
    assert options.engine_flags == ("--prefix_caching", "false")
    assert parse(["--config", str(file), "--port", "9001"]).port == 9001


@pytest.mark.parametrize(
    ("text", "message"),
    [("nonsense = 1", "nonsense"), ("port = [", "expected TOML"), ("[port]\nx = 1", "'port', got a table")],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        parse(["--config", str(file)])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.toml: No such file"):
        parse(["--config", str(tmp_path / "none.toml")])


@pytest.mark.parametrize("arguments", [["--decode", "0"], ["--prefill", "-1"], ["--threads", "-1"]])
def test_numbers_that_make_no_system_are_refused(arguments: list[str]) -> None:
    with pytest.raises(InvalidInput, match=arguments[0]):
        parse(arguments)


def test_cpus_are_shared_out_and_every_engine_has_one() -> None:
    assert [cpus.threads_each(*each) for each in [(8, 2), (8, 3), (2, 2), (1, 4)]] == [4, 2, 1, 1]


@pytest.mark.parametrize(("text", "expected"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1)])
def test_a_container_s_quota_counts(tmp_path: Path, text: str, expected: int | None) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert cpus.allowed(file) == (expected or cpus.allowed(tmp_path / "none"))


def test_two_launchers_have_scopes_of_their_own() -> None:
    assert plan.scope_of(parse(["--port", "1"])) != plan.scope_of(parse(["--port", "2"]))
    assert plan.scope_of(parse(["--nanoctrl_scope", "x"])) == "x"


def test_a_busy_port_is_named_with_its_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(InvalidInput, match=rf"port {port} on 127\.0\.0\.1 is in use.*--port"):
            check_free("127.0.0.1", port)
    check_free("127.0.0.1", port)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"192\.0\.2\.1.*--host"):
        check_free("192.0.2.1", 8080)


BARE = """
import importlib.util, sys
real = importlib.util.find_spec
absent = set(sys.argv[1].split(","))
importlib.util.find_spec = lambda name, package=None: None if name in absent else real(name, package)
sys.modules.update({name: None for name in absent})
from nano.serve.__main__ import main
sys.exit(main([]))
"""


def test_a_bare_install_is_told_what_to_install() -> None:
    names = "msgspec,redis,hiredis,granian,zmq,torch,safetensors,huggingface_hub,tokenizers,jinja2,prometheus_client"
    ended = subprocess.run([sys.executable, "-c", BARE, names], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2
    assert "pip install 'nano-serve[all]'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert all(name in ended.stderr for name in names.split(","))
