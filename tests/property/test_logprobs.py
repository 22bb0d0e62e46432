"""However tokens come, their log-probabilities go with the text that they begin, and no others do."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nano import wire
from nano.router._text import Choice, Vocabulary, dispatch, settle
from nano.router.logprobs import LOWEST, Report

TABLE = [b"", b"a", b"b", b"ab", b"ba", b" c", "é".encode(), "é".encode()[:1], "é".encode()[1:], b"aab"]
VOCABULARY = Vocabulary(TABLE)
# What a report asks of a tokenizer.
TOKENIZER: Any = SimpleNamespace(
    id_to_bytes=TABLE, backend=SimpleNamespace(id_to_token=lambda id: f"<special {id}>" if id == 0 else None)
)


def outputs(first: int, tokens: list[int], finish: int) -> wire.Outputs:
    count = len(tokens)
    return wire.Outputs(
        np.full(count, 7, "<u8").tobytes(),
        np.arange(first, first + count, dtype="<u4").tobytes(),
        np.array(tokens, "<i4").tobytes(),
        bytes([0] * (count - 1) + [finish]),
        bytes(4 * count),
    )


def run(
    tokens: list[int], cuts: list[int], stops: tuple[str, ...], stop_token: bool, chat: bool
) -> tuple[list[Any], list[bytes], bool]:
    """The reports' parsed JSON, the pieces of text beside them, and whether a stop string ended it."""
    choice = Choice(7, 0, None, VOCABULARY, stops)
    report = Report(TOKENIZER, chat=chat)
    parts, pieces = [], []
    edges = sorted({0, len(tokens), *(cut for cut in cuts if cut < len(tokens))})
    for begin, end in itertools.pairwise(edges):
        last = end == len(tokens)
        message = outputs(begin, tokens[begin:end], (wire.STOP if stop_token else wire.LENGTH) if last else 0)
        for row in range(begin, end):
            if not (last and stop_token and row == end - 1):
                report.add(tokens[row], wire.TokenLogprobs(-float(row), [(1, float("-inf"))]))
        touched: list[Choice] = []
        dispatch(
            {7: choice}, message.keys, message.indices, message.tokens, message.finish, message.cached, 0.0, touched
        )
        settle(touched)
        pieces.append(choice.take())
        parts.append(msgspec.json.decode(report.take(len(pieces[-1]), last=choice.finish != 0 and not choice.stopped)))
        if choice.finish:
            break
    return parts, pieces, choice.stopped


cases = st.tuples(
    st.lists(st.integers(0, len(TABLE) - 1), min_size=1, max_size=20),
    st.lists(st.integers(1, 19), max_size=6),
    st.sampled_from([(), ("aa",), ("ba", "ab c")]),
    st.booleans(),
)


@given(cases)
def test_every_token_is_reported_once_in_order_and_none_of_a_stop_string(case: Any) -> None:
    tokens, cuts, stops, stop_token = case
    parts, pieces, stopped = run(tokens, cuts, stops, stop_token, chat=True)
    found = [one for part in parts if part for one in part["content"]]
    assert [one["logprob"] for one in found] == [-float(i) for i in range(len(found))]
    assert [bytes(one["bytes"] or []) for one in found] == [TABLE[token] for token in tokens[: len(found)]]
    if not stopped:
        assert len(found) == len(tokens) - stop_token
    elif all(byte < 128 for token in tokens for byte in TABLE[token]):  # else U+FFFD is longer than what it replaces
        text, data = b"".join(pieces), b"".join(bytes(one["bytes"] or []) for one in found)
        assert data.startswith(text)
        assert not found or len(data) - len(bytes(found[-1]["bytes"] or [])) <= len(text)
    for one in found:
        assert one["token"]
        assert one["top_logprobs"] == [{"token": "a", "logprob": LOWEST, "bytes": [97]}]


@given(cases)
def test_columns_say_the_same(case: Any) -> None:
    chat = [one for part in run(*case, chat=True)[0] if part for one in part["content"]]
    columns = [part for part in run(*case, chat=False)[0] if part]
    assert [value for part in columns for value in part["token_logprobs"]] == [one["logprob"] for one in chat]
    offsets = [offset for part in columns for offset in part["text_offset"]]
    assert offsets == sorted(offsets)
    for part in columns:
        assert len(part["tokens"]) == len(part["top_logprobs"]) == len(part["text_offset"])
        for token, top, value in zip(part["tokens"], part["top_logprobs"], part["token_logprobs"], strict=True):
            assert top == {"a": LOWEST} if token == "a" else top == {"a": LOWEST, token: value}
