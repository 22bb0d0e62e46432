"""Rows of an engine to the choices that they belong to."""

from __future__ import annotations

import struct

import pytest

from nano import wire
from nano.router._text import Choice, Vocabulary, dispatch, settle

VOCABULARY = Vocabulary([bytes([byte]) for byte in range(128)])

Row = tuple[int, int, int, int, int]  # key, index, token, finish, cached


def choices(*keys: int, **options: object) -> dict[int, Choice]:
    return {key: Choice(key, i, None, VOCABULARY, **options) for i, key in enumerate(keys)}  # type: ignore[arg-type]


def feed(live: dict[int, Choice], *rows: Row, touched: list[Choice] | None = None) -> list[Choice]:
    touched = [] if touched is None else touched
    columns = [
        struct.pack(f"<{len(rows)}{code}", *column)
        for code, column in zip("QIiBI", zip(*rows, strict=True), strict=True)
    ]
    dispatch(live, *columns, 1.5, touched)
    return touched


def test_rows_reach_their_choices_in_any_mixture() -> None:
    live = choices(2**64 - 1, 7)
    touched = feed(
        live,
        (7, 0, 97, wire.UNFINISHED, 3),
        (2**64 - 1, 0, 98, wire.UNFINISHED, 0),
        (99, 5, 99, wire.UNFINISHED, 0),
        (7, 1, 100, wire.LENGTH, 9),
    )
    a, b = live[7], live[2**64 - 1]
    assert touched == [a, b]
    assert (a.take(), a.finish, a.tokens, a.cached, a.heard) == (b"ad", wire.LENGTH, 2, 3, 1.5)
    assert (b.take(), b.finish, b.tokens) == (b"b", wire.UNFINISHED, 1)


def test_a_choice_is_touched_once_until_it_is_settled() -> None:
    live = choices(1)
    touched = feed(live, (1, 0, 97, wire.UNFINISHED, 0))
    feed(live, (1, 1, 97, wire.UNFINISHED, 0), touched=touched)
    assert touched == [live[1]]
    settle(touched)
    assert feed(live, (1, 2, 97, wire.UNFINISHED, 0)) == [live[1]]


def test_a_stop_token_counts_and_is_no_text_and_a_last_token_is_text() -> None:
    live = choices(1, 2)
    feed(live, (1, 0, 97, wire.STOP, 0), (2, 0, 97, wire.LENGTH, 0))
    assert (live[1].take(), live[1].tokens) == (b"", 1)
    assert (live[2].take(), live[2].tokens) == (b"a", 1)


def test_an_ending_without_a_token_releases_what_was_held() -> None:
    live = choices(1, stops=("ab",))
    feed(live, (1, 0, 97, wire.UNFINISHED, 0))
    assert live[1].take() == b""
    feed(live, (1, 1, -1, wire.STOP, 0))
    assert (live[1].take(), live[1].finish, live[1].stopped) == (b"a", wire.STOP, False)


def test_rows_after_the_end_change_nothing() -> None:
    live = choices(1, stops=("b",))
    feed(live, (1, 0, 98, wire.UNFINISHED, 0), (1, 1, 97, wire.UNFINISHED, 0), (1, 5, 97, wire.FAILED, 0))
    assert (live[1].take(), live[1].tokens, live[1].finish, live[1].stopped) == (b"", 1, wire.STOP, True)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ((1, 1, 97, wire.UNFINISHED, 0), "output index: expected 0, got 1"),
        ((1, 0, 97, 4, 0), "finish code: expected 0 to 3, got 4"),
        ((1, 0, -1, wire.UNFINISHED, 0), "expected a token or an ending, got neither"),
    ],
)
def test_a_row_that_makes_no_sense_fails_its_choice_alone(row: Row, fault: str) -> None:
    live = choices(1, 2)
    feed(live, row, (2, 0, 97, wire.UNFINISHED, 0))
    assert live[1].finish == wire.FAILED
    assert fault in (live[1].fault or "")
    assert (live[2].take(), live[2].finish) == (b"a", wire.UNFINISHED)


def test_a_token_beyond_the_vocabulary_counts_and_has_no_text() -> None:
    live = choices(1)
    feed(live, (1, 0, 128, wire.UNFINISHED, 0), (1, 1, 2**31 - 1, wire.UNFINISHED, 0))
    assert (live[1].take(), live[1].tokens) == (b"", 2)


@pytest.mark.parametrize("column", range(5))
def test_columns_of_different_lengths_are_refused_before_anything_changes(column: int) -> None:
    live = choices(1)
    columns = [bytes(8), bytes(4), bytes(4), bytes(1), bytes(4)]
    columns[column] += b"\0"
    with pytest.raises(ValueError, match="expected columns"):
        dispatch(live, *columns, 0.0, [])
    assert live[1].tokens == 0
