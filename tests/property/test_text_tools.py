"""Tool calls in a stream are those in the whole text, however it is cut."""

from __future__ import annotations

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nano.router.tools import Call, Parser, parse

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "</tool_call>", "b": [1, 2.0]}}\n</tool_call>'
PIECES = st.lists(
    st.sampled_from(
        (
            *(
                CALL,
                CALL.replace("\n", ""),
                "<tool_call>",
                "</tool_call>",
                "<tool",
                "_call>",
                "<",
                ">",
                " ",
                "\n",
                "hi",
            ),
            *("<tool_call>not json</tool_call>", '<tool_call>{"name": 3}</tool_call>', '"', "{", '{"name": "g"}', "世"),
        )
    ),
    max_size=10,
).map("".join)


def merged(parts: list[str | Call]) -> list[str | tuple[str, str]]:
    """Neighbouring texts as one, calls without their random ids."""
    found: list[str | tuple[str, str]] = []
    for part in parts:
        if isinstance(part, Call):
            found.append((part.name, part.arguments))
        elif found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found


@settings(max_examples=600, deadline=None)
@given(PIECES, st.lists(st.integers(0, 9), max_size=60))
@example(f"  hi \n{CALL}\n\n{CALL} bye", [1] * 60)
@example("a \n<tool_call>no</tool_call> b", [3] * 10)
def test_any_cut_gives_the_same_text_and_calls(text: str, sizes: list[int]) -> None:
    whole = Parser()
    expected = merged(whole.feed(text) + whole.finish())
    parser = Parser()
    parts: list[str | Call] = []
    rest = text
    for size in sizes:
        parts += parser.feed(rest[:size])
        rest = rest[size:]
    parts += parser.feed(rest) + parser.finish()
    assert merged(parts) == expected
    assert all(part != "" for part in parts)
    assert parser.called == any(isinstance(part, Call) for part in parts)


@given(st.text(alphabet=st.characters(exclude_characters="<", codec="utf-8")))
def test_text_without_calls_is_left_alone(text: str) -> None:
    assert parse(text) == (text, [])


@given(st.text(max_size=5), st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none()), max_size=4))
def test_arguments_come_through_as_they_were_written(name: str, arguments: dict[str, object]) -> None:
    written = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    said, calls = parse(f"<tool_call>\n{written}\n</tool_call>")
    assert said == ""
    assert [(call.name, call.arguments) for call in calls] == [(name, json.dumps(arguments, ensure_ascii=False))]
