"""The tokenizer and the chat template give what transformers gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

sys.path.append(str(Path(__file__).parents[2] / "bench" / "router"))
from harness import make_model_dir, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from nano.errors import InvalidInput
from nano.router._text import TextStream, Vocabulary, pack_ids
from nano.router.encoder import Encoder
from nano.template import ChatTemplate
from nano.tokenizer import Tokenizer

TEXTS = [
    "Hello, world!",
    "  leading and trailing  ",
    "1+1=? 123456",
    "世界 😀 é\u0301 \u200d",
    "line\r\nbreak\ttab",
    "<|im_start|>user\nhi<|im_end|>",
    "a <tool_call> b </tool_call>",
    "",
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "é <b>", "parameters": {"type": "object"}}}]
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "hi"}],
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": "世界"}],
    [
        {"role": "user", "content": "weather"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"é": [1, "<"]}}}]},
        {"role": "tool", "content": "rain"},
    ],
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def ours(model_dir: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(model_dir)


@pytest.fixture(scope="module")
def theirs(model_dir: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(model_dir / "tokenizer.json"),
        **json.loads((model_dir / "tokenizer_config.json").read_text()),
    )


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_are_those_of_transformers(ours: Tokenizer, theirs: Any, text: str) -> None:
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ids == ours.encode_unlocked(text)
    for cut in range(len(ids) + 1):
        expected = theirs.decode(ids[:cut], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(ids[:cut]) == expected


@pytest.mark.parametrize("messages", CHATS)
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_rendered_chat_is_that_of_transformers(
    ours: Tokenizer, theirs: Any, messages: list[dict[str, Any]], tools: Any, add_generation_prompt: bool
) -> None:
    expected = theirs.apply_chat_template(
        messages, tools=tools, add_generation_prompt=add_generation_prompt, tokenize=False
    )
    assert ours.render_chat(messages, tools, add_generation_prompt) == expected
    ids = ours.apply_chat_template(messages, tools, add_generation_prompt)
    assert ids == theirs.encode(expected, add_special_tokens=False)


def test_special_tokens_have_ids_and_no_text(ours: Tokenizer) -> None:
    assert ours.special_tokens == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    assert ours.eos_token_id == ours.token_to_id("<|im_end|>")
    assert ours.bos_token_id is None
    assert ours.eos_token_id in ours.special_ids
    assert ours.id_to_bytes[ours.eos_token_id or 0] == b""
    assert ours.id_to_bytes[ours.token_to_id("<tool_call>") or 0] == b"<tool_call>"


def byte_fallback() -> tokenizers.Tokenizer:
    """As sentencepiece models are: spaces as U+2581, rare characters as byte tokens."""
    vocabulary = {"<unk>": 0, "</s>": 1, **{f"<0x{byte:02X}>": 2 + byte for byte in range(256)}}
    vocabulary.update({token: 258 + i for i, token in enumerate(["\u2581", "\u2581a", "a", "b", "\u2581\u2581"])})
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [("\u2581", "a")], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return tokenizer


@pytest.mark.parametrize("text", ["a b", " a", "世界 a", "ab  ba"])
def test_byte_fallback_vocabularies_give_the_librarys_text(text: str) -> None:
    backend = byte_fallback()
    ours = Tokenizer(backend)
    ids = ours.encode(text)
    assert ours.decode(ids) == backend.decode(ids) == text
    stream = TextStream(Vocabulary(ours.id_to_bytes))
    assert "".join([*(stream.feed([i]) for i in ids), stream.finish()]) == " " + text


def test_a_missing_or_wrong_tokenizer_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"tokenizer\.json"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"tokenizer\.json"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_template_of_its_own_file_comes_before_the_configs(tmp_path: Path) -> None:
    make_model_dir(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}{{ eos_token }}")
    assert Tokenizer.from_pretrained(tmp_path).render_chat([{"role": "user", "content": "x"}]) == "x<|im_end|>"


def test_named_templates_are_chosen_by_the_presence_of_tools() -> None:
    tokenizer = Tokenizer(byte_fallback(), chat_templates={"default": "plain", "tool_use": "tools"})
    assert tokenizer.render_chat([]) == "plain"
    assert tokenizer.render_chat([], TOOLS) == "tools"
    with pytest.raises(InvalidInput, match="has none"):
        Tokenizer(byte_fallback()).render_chat([])


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no system message') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[0].content + 1 }}",
        "{{ nothing.at.all }}",
    ],
)
def test_a_template_that_fails_or_leaves_its_sandbox_is_an_error(source: str) -> None:
    with pytest.raises(InvalidInput, match="chat template"):
        ChatTemplate(source, {}).render([{"role": "user", "content": "x"}])


def test_templates_have_generation_blocks_loop_controls_and_the_time() -> None:
    source = "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{% generation %}x{% endgeneration %}"
    source += "{% endfor %}{{ strftime_now('%Y') | length }}{{ mood }}"
    assert ChatTemplate(source, {}).render([{}, {}], extra={"mood": "!"}) == "x4!"


def test_ids_are_packed_little_endian_and_checked() -> None:
    assert pack_ids([1, 258], 300) == b"\1\0\0\0\2\1\0\0"
    for wrong in (-1, 300):
        with pytest.raises(ValueError, match=f"got {wrong}"):
            pack_ids([0, wrong], 300)


def llama(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    declared = backend.to_str().replace(r"|\\p{N}|", r"|\\p{N}{1,3}|")
    assert declared != backend.to_str()
    return tokenizers.Tokenizer.from_str(declared)


ENCODERS = {
    kind: Encoder(Tokenizer(change(make_tokenizer()))) for kind, change in (("qwen", lambda b: b), ("llama", llama))
}
ASCII = st.text(alphabet=st.characters(max_codepoint=127))
TRICKY = "the Fox 's 'S 'll 'Re ' 12345 \x1c \x00 ?! <|im_end|> <|im_end <tool_call> 世界 é e\u0301 \u017f '\u017f ٣ 😀"
SPACES = (" ", "  ", "\n", "\r\n", "\t", "\x0b", "\u2003")
WORDS = st.lists(st.sampled_from((*TRICKY.split(" "), *SPACES)), max_size=12).map("".join)


@pytest.mark.parametrize("kind", ["qwen", "llama"])
@settings(max_examples=500, deadline=None)
@given(text=st.one_of(ASCII, WORDS))
def test_the_short_way_to_ids_gives_the_librarys(kind: str, text: str) -> None:
    encoder = ENCODERS[kind]
    assert encoder.fast
    expected = pack_ids(encoder._tokenizer.encode(text), 512)
    assert encoder.encode(text, True) == expected
    assert encoder.encode_unlocked(text, True) == expected


def test_tokenizers_whose_split_is_not_known_go_the_librarys_way() -> None:
    tokenizer = Tokenizer(byte_fallback())
    encoder = Encoder(tokenizer)
    assert not encoder.fast
    assert encoder.encode("a b", True) == pack_ids(tokenizer.encode("a b"), len(tokenizer))
