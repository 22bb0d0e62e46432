"""The Cython byte loop against its plain twin, for any vocabulary, any tokens and any cut."""

from __future__ import annotations

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nano import wire
from nano.detokenizer import TextStream as Plain
from nano.router import _text

# Bytes that make code points, cut ones and wrong ones likely.
TRICKY = st.sampled_from(
    [b"a", b"b", b"ab", b"\n", b'"', b"\\", "é".encode(), "世".encode(), "😀".encode(), "�".encode()]
    + [bytes([byte]) for byte in (0x80, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0, 0xE4, 0xED, 0xF0, 0xF4, 0xF5, 0xFF, 0x00)]
    + ["世".encode()[:2], "😀".encode()[:3], "😀".encode()[2:], b""]
)
VOCABULARY = st.lists(st.one_of(TRICKY, st.binary(max_size=4)), min_size=1, max_size=12)
STOPS = st.lists(st.text(alphabet="ab\né世😀�", min_size=1, max_size=4), max_size=4).map(tuple)
IDS = st.lists(st.integers(0, 13), max_size=30)


def cuts(ids: list[int], sizes: list[int]) -> list[list[int]]:
    pieces = []
    for size in sizes:
        pieces.append(ids[:size])
        ids = ids[size:]
    return [*pieces, ids]


@settings(max_examples=600, deadline=None)
@example([b"a", b"\xed", b"\xa0"], (), [1, 2], [])  # half of an encoded surrogate
@given(VOCABULARY, STOPS, IDS, st.lists(st.integers(0, 5), max_size=20))
def test_every_piece_of_text_is_that_of_the_plain_twin(
    table: list[bytes], stops: tuple[str, ...], ids: list[int], sizes: list[int]
) -> None:
    fast = _text.TextStream(_text.Vocabulary(table), stops)
    plain = Plain(table, stops)
    for piece in cuts(ids, sizes):
        assert fast.feed(piece) == plain.feed(piece)
        assert fast.stopped == plain.stopped
    assert fast.finish() == plain.finish()
    assert fast.stopped == plain.stopped


@settings(max_examples=400, deadline=None)
@given(VOCABULARY, STOPS, IDS, st.lists(st.integers(0, 5), max_size=20))
def test_the_text_does_not_depend_on_the_cuts_and_never_holds_a_stop_string(
    table: list[bytes], stops: tuple[str, ...], ids: list[int], sizes: list[int]
) -> None:
    stream = _text.TextStream(_text.Vocabulary(table), stops)
    text = "".join([*(stream.feed(piece) for piece in cuts(ids, sizes)), stream.finish()])
    whole = b"".join(table[i] for i in ids if i < len(table)).decode(errors="replace")
    assert whole.startswith(text)
    assert not any(stop in text for stop in stops)
    assert stream.stopped == any(stop in whole for stop in stops)
    if not stream.stopped:
        assert text == whole


@settings(max_examples=300, deadline=None)
@given(VOCABULARY, STOPS, IDS, st.lists(st.integers(1, 5), max_size=20), st.sampled_from([wire.STOP, wire.LENGTH]))
def test_frames_hold_the_same_text_as_the_plain_twin_token_by_token(
    table: list[bytes], stops: tuple[str, ...], ids: list[int], sizes: list[int], ending: int
) -> None:
    choice = _text.Choice(7, 0, None, _text.Vocabulary(table), stops, b'data: {"text":"', b'"}\n\n')
    live = {7: choice}
    got = b""
    row = 0
    for piece in cuts(ids, sizes):
        touched: list[_text.Choice] = []
        rows = [(7, row + i, token, wire.UNFINISHED) for i, token in enumerate(piece)]
        row += len(piece)
        feed(live, rows, touched)
        assert touched == ([choice] if piece and not choice.stopped else touched)
        _text.settle(touched)
        got += choice.take()
    feed(live, [(7, row, -1, ending)], [])
    got += choice.take()

    plain = Plain(table, stops)
    expected = []
    for i in ids:
        expected.append(plain.feed([i]))
        if plain.stopped:
            break
    expected.append(plain.finish())
    events = [json.loads(event.removeprefix("data: "))["text"] for event in got.decode().split("\n\n")[:-1]]
    assert events == [text for text in expected if text]
    assert choice.finish == (wire.STOP if plain.stopped else ending)


def feed(live: dict[int, _text.Choice], rows: list[tuple[int, int, int, int]], touched: list[_text.Choice]) -> None:
    _text.dispatch(
        live,
        b"".join(key.to_bytes(8, "little") for key, *_ in rows),
        b"".join(index.to_bytes(4, "little") for _, index, *_ in rows),
        b"".join(token.to_bytes(4, "little", signed=True) for *_, token, _ in rows),
        bytes(finish for *_, finish in rows),
        bytes(4 * len(rows)),
        0.0,
        touched,
    )


@given(st.text())
def test_a_framed_text_is_a_json_string(text: str) -> None:
    assert json.loads(_text.frame(b'"', text, b'"')) == text
