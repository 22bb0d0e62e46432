"""What is sent is what arrives; what is not a message is refused, whatever it is."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nano import wire

u64 = st.integers(0, 2**64 - 1)
samplings = st.builds(
    wire.Sampling,
    max_tokens=st.integers(1, 2**31 - 1),
    seed=u64,
    temperature=st.floats(0, 100),
    top_p=st.floats(0, 1),
    stop_token_ids=st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple),
    min_p=st.floats(0, 1),
    logit_bias=st.dictionaries(st.integers(0, 2**31 - 1), st.floats(-100, 100), max_size=4),
    logprobs=st.integers(-1, 20),
)
token_logprobs = st.builds(
    wire.TokenLogprobs,
    chosen=st.floats(-1e3, 0, width=32),
    top=st.lists(st.tuples(st.integers(0, 2**31 - 1), st.floats(-1e3, 0, width=32)), max_size=20),
)
rows = st.lists(st.none() | token_logprobs, max_size=6)
failures = st.builds(wire.Failure, code=st.text(), message=st.text(), retryable=st.booleans())
messages = st.one_of(
    st.builds(wire.Generate, key=u64, token_ids=st.binary(), sampling=samplings, prefill_name=st.text()),
    st.builds(wire.Abort, keys=st.lists(u64).map(tuple)),
    st.builds(
        wire.Outputs, keys=st.binary(), indices=st.binary(), tokens=st.binary(), finish=st.binary(),
        cached=st.binary(), failures=st.dictionaries(u64, failures), logprobs=rows.map(wire.pack_logprobs),
    ),
    st.builds(wire.FirstToken, key=u64, token=st.integers(0, 9), cached=st.integers(0, 9)),
    st.builds(
        wire.Grant, key=u64, tag=u64, first_block=st.integers(0, 9), blocks=st.binary(), lease_ms=st.integers(0, 9)
    ),
    st.builds(wire.PrefillFailed, key=u64, failure=failures),
)  # fmt: skip


@given(messages)
def test_a_message_survives_the_wire(message: wire.Message) -> None:
    assert wire.decode(wire.encode(message)) == message


@given(st.binary())
def test_garbage_is_refused_not_misread(frame: bytes) -> None:
    try:
        message = wire.decode(frame)
    except msgspec.DecodeError:
        return
    assert wire.decode(wire.encode(message)) == message


@given(messages, st.data())
def test_a_truncated_message_is_refused(message: wire.Message, data: st.DataObject) -> None:
    frame = wire.encode(message)
    with pytest.raises(msgspec.DecodeError):
        wire.decode(frame[: data.draw(st.integers(0, len(frame) - 1))])


@given(st.lists(st.integers(0, 2**31 - 1)))
def test_token_ids_survive(ids: list[int]) -> None:
    assert wire.unpack_ids(wire.pack_ids(np.array(ids, np.int64))).tolist() == ids


@given(rows)
def test_logprobs_survive_in_the_rows_that_have_them(rows: list[wire.TokenLogprobs | None]) -> None:
    packed = wire.pack_logprobs(rows)
    assert dict(wire.unpack_logprobs(packed)) == {row: one for row, one in enumerate(rows) if one is not None}
    assert (packed is None) == all(one is None for one in rows)


@given(rows.map(wire.pack_logprobs).filter(bool), st.sampled_from(["rows", "chosen", "counts", "ids", "values"]))
def test_columns_that_disagree_are_refused(packed: wire.Logprobs, column: str) -> None:
    longer = msgspec.structs.replace(packed, **{column: getattr(packed, column) + b"\1\0\0\0"})
    with pytest.raises(ValueError, match=r"expected|zip"):
        list(wire.unpack_logprobs(longer))
