"""Which engine is picked."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from nano.router.config import RouterConfig, parse_args
from nano.router.policy import LeastLoaded, RoundRobin


@dataclass
class Engine:
    load: int


def test_round_robin_takes_each_in_turn_whatever_its_load() -> None:
    policy = RoundRobin()
    engines = [Engine(9), Engine(0), Engine(5)]
    assert [policy.pick(engines) for _ in range(6)] == [0, 1, 2, 0, 1, 2]
    assert [policy.pick(engines[:2]) for _ in range(2)] == [1, 0]


def test_least_loaded_takes_the_idlest_and_equals_in_turn() -> None:
    policy = LeastLoaded()
    assert policy.pick([Engine(3), Engine(1), Engine(2)]) == 1
    equals = [Engine(1), Engine(1), Engine(7)]
    assert {policy.pick(equals) for _ in range(6)} == {0, 1}
    for _ in range(30):
        picked = policy.pick(equals)
        equals[picked].load += 1
    assert [engine.load for engine in equals] in ([13, 13, 13], [12, 13, 14], [13, 12, 14])


def test_flags_are_taken_with_underscores_and_dashes() -> None:
    dashes = parse_args(["--nanoctrl-address", "h:1", "--nanoctrl-scope", "s", "--log-level", "debug", "--port", "9"])
    underscores = parse_args(["--nanoctrl_address=h:1", "--nanoctrl_scope=s", "--log_level=debug", "--port=9"])
    assert dashes == underscores == RouterConfig(nanoctrl_address="h:1", nanoctrl_scope="s", log_level="debug", port=9)


@pytest.mark.parametrize("flags", [["--port", "70000"], ["--policy", "best"], ["--silence_timeout_s", "0"], ["--what"]])
def test_a_wrong_flag_is_named(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        parse_args(flags)
    assert exit.value.code == 2
    assert flags[0] in capsys.readouterr().err
