"""The real server, real ZMQ and the real openai client, over engines whose tokens are scripted."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench" / "router"))
from engine_stub import Script, Stub
from harness import RouterThread, make_model_dir

import nano
from nano import wire
from nano.ctrl import connect
from nano.ctrl.embedded import EmbeddedRedis
from nano.router import engine
from nano.router._text import pack_ids
from nano.router.generation import Generation
from nano.tokenizer import Tokenizer

HI = [{"role": "user", "content": "hi"}]
TEXT = 'Hello, 世界! 😀 "quoted"\\ \n done'
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>'
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {}}}},
    }
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(model_dir)


class System:
    """One hybrid engine stub and a router, whose next script is `script`."""

    def __init__(self, model_dir: Path, tokenizer: Tokenizer, **config: Any) -> None:
        self.tokenizer = tokenizer
        self.script = Script()
        self.stub = Stub("e0", "tcp://127.0.0.1:*", lambda _: self.script)
        info = self.stub.info(
            model_path=str(model_dir),
            models=("demo", "org/demo"),
            sampling_defaults={"temperature": 0.6, "top_k": 20.0},
        )
        self.router = RouterThread({"e0": info}, **config)
        self.http = httpx.Client(base_url=self.router.url, timeout=10)
        self.client = openai.OpenAI(base_url=self.router.url + "/v1", api_key="none", max_retries=0, timeout=10)
        wait_until(self.ready)

    def say(self, text: str, **script: Any) -> None:
        self.script = Script(self.tokenizer.encode(text), stop_token=self.tokenizer.eos_token_id or 0, **script)

    def ready(self) -> bool:
        return self.http.get("/ready").status_code == 200

    def close(self) -> None:
        self.client.close()
        self.http.close()
        self.router.close()
        self.stub.close()


def wait_until(condition: Callable[[], bool], timeout: float = 5.0) -> float:
    """Seconds until the condition held."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout, "the condition never held"
        time.sleep(0.01)
    return time.monotonic() - started


@pytest.fixture(scope="module")
def shared(model_dir: Path, tokenizer: Tokenizer) -> Iterator[System]:
    system = System(model_dir, tokenizer)
    yield system
    system.close()


@pytest.fixture
def system(shared: System) -> System:
    shared.stub.requests.clear()
    shared.stub.aborted.clear()
    shared.say(TEXT)
    return shared


def last_sampling(system: System) -> wire.Sampling:
    return system.stub.requests[-1].sampling


# --- answers ---------------------------------------------------------------------------------------------------------


def test_a_chat_comes_whole(system: System) -> None:
    answer = system.client.chat.completions.create(model="demo", messages=HI)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    prompt = system.tokenizer.apply_chat_template(HI)
    assert system.stub.requests[-1].token_ids == pack_ids(prompt, 512)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == len(system.script.tokens) + 1  # and the stop token


@pytest.mark.parametrize("burst", [1, 3, 1000])
def test_a_chat_streams_the_same_text(system: System, burst: int) -> None:
    system.say(TEXT, burst=burst, cached=5)
    stream = system.client.chat.completions.create(
        model="demo", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[0].choices[0].delta.role == "assistant"
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens == len(system.script.tokens) + 1
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 5
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert all("\ufffd" not in (chunk.choices[0].delta.content or "") for chunk in chunks if chunk.choices)


def test_a_stream_has_one_event_for_each_token_that_frees_text(system: System) -> None:
    system.say("a b c d e", burst=100)
    stream = system.client.chat.completions.create(model="demo", messages=HI, stream=True)
    texts = [chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content]
    assert len(texts) == len(system.script.tokens)


@pytest.mark.parametrize("stream", [False, True])
def test_max_tokens_ends_with_length(system: System, stream: bool) -> None:
    system.script = Script([65], repeat=True)
    for limit in ({"max_tokens": 5}, {"max_completion_tokens": 5}):
        answer = system.client.chat.completions.create(model="demo", messages=HI, stream=stream, **limit)  # type: ignore[call-overload]
        choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
        assert choices[-1].finish_reason == "length"
        assert last_sampling(system).max_tokens == 5


def test_a_chat_may_fill_the_model_and_a_completion_has_sixteen_tokens(system: System) -> None:
    system.client.chat.completions.create(model="demo", messages=HI)
    assert last_sampling(system).max_tokens == 2048 - len(system.tokenizer.apply_chat_template(HI))
    system.client.completions.create(model="demo", prompt="hi")
    assert last_sampling(system).max_tokens == 16


def test_completions_take_a_string_strings_ids_and_lists_of_ids(system: System) -> None:
    ids = system.tokenizer.encode("the fox")
    for prompt, count in (("the fox", 1), (["the fox", "the dog"], 2), (ids, 1), ([ids, ids, ids], 3)):
        system.stub.requests.clear()
        answer = system.client.completions.create(model="demo", prompt=prompt, max_tokens=100)  # type: ignore[arg-type]
        assert [choice.text for choice in answer.choices] == [TEXT] * count
        assert [choice.index for choice in answer.choices] == list(range(count))
        assert system.stub.requests[0].token_ids == pack_ids(ids, 512)
        assert len(system.stub.requests) == count


def test_a_completion_streams(system: System) -> None:
    stream = system.client.completions.create(model="demo", prompt="hi", max_tokens=100, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == TEXT


@pytest.mark.parametrize("stream", [False, True])
def test_n_choices_are_requests_of_their_own_with_seeds_that_count_up(system: System, stream: bool) -> None:
    answer = system.client.chat.completions.create(model="demo", messages=HI, n=3, seed=2**64 - 1, stream=stream)
    if stream:
        texts = ["", "", ""]
        for chunk in answer:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert texts == [TEXT] * 3
    else:
        assert [choice.message.content for choice in answer.choices] == [TEXT] * 3
        assert answer.usage.prompt_tokens == len(system.tokenizer.apply_chat_template(HI))
    assert [request.sampling.seed for request in system.stub.requests] == [2**64 - 1, 0, 1]
    assert len({request.key for request in system.stub.requests}) == 3


def test_equal_requests_with_a_seed_ask_the_engine_the_same(system: System) -> None:
    for _ in range(2):
        system.client.chat.completions.create(model="demo", messages=HI, seed=7, temperature=0.5, top_p=0.9)
    first, second = (request.sampling for request in system.stub.requests)
    assert first == second
    assert (first.seed, first.temperature, first.top_p) == (7, 0.5, 0.9)


def test_the_models_own_defaults_hold_where_the_client_says_nothing(system: System) -> None:
    system.client.chat.completions.create(model="demo", messages=HI)
    system.client.chat.completions.create(model="demo", messages=HI, temperature=0)
    silent, greedy = (request.sampling for request in system.stub.requests)
    assert (silent.temperature, silent.top_p, silent.top_k) == (0.6, 1.0, 20)
    assert greedy.temperature == 0
    assert silent.seed != greedy.seed


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("burst", [1, 1000])
def test_a_stop_string_across_tokens_ends_the_text_and_the_engines_work(
    system: System, stream: bool, burst: int
) -> None:
    system.say("one two STOP three", burst=burst, step_s=0.005)
    answer = system.client.chat.completions.create(model="demo", messages=HI, stop=["STOP", "zzz"], stream=stream)
    choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
    text = "".join(c.delta.content or "" for c in choices) if stream else choices[0].message.content
    assert text == "one two "
    assert choices[-1].finish_reason == "stop"
    if burst == 1:
        assert system.stub.wait_for(lambda: system.stub.aborted == [system.stub.requests[-1].key])


@pytest.mark.parametrize("burst", [1, 1000])
def test_tools_are_called_in_a_stream_as_in_a_whole_answer(system: System, burst: int) -> None:
    system.say(f"Let me see.\n{CALL}\n{CALL}", burst=burst)
    whole = system.client.chat.completions.create(model="demo", messages=HI, tools=TOOLS, tool_choice="auto")
    message = whole.choices[0].message
    assert whole.choices[0].finish_reason == "tool_calls"
    assert message.content == "Let me see."
    assert message.tool_calls is not None
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls]  # type: ignore[union-attr]
    assert calls == [("get_weather", '{"city": "Köln"}')] * 2
    assert len({call.id for call in message.tool_calls}) == 2

    text, streamed = "", []
    for chunk in system.client.chat.completions.create(model="demo", messages=HI, tools=TOOLS, stream=True):
        delta = chunk.choices[0].delta
        text += delta.content or ""
        streamed += delta.tool_calls or []
    assert text == "Let me see."
    assert [call.index for call in streamed] == [0, 1]
    assert [(call.function.name, call.function.arguments) for call in streamed if call.function] == calls
    assert chunk.choices[0].finish_reason == "tool_calls"


def test_tool_choice_none_shows_no_tools_and_looks_for_no_calls(system: System) -> None:
    system.say(CALL)
    answer = system.client.chat.completions.create(model="demo", messages=HI, tools=TOOLS, tool_choice="none")
    assert answer.choices[0].message.content == CALL
    assert system.stub.requests[-1].token_ids == pack_ids(system.tokenizer.apply_chat_template(HI), 512)


def test_a_tool_conversation_reaches_the_template_with_arguments_as_an_object(system: System) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Köln"}'}}
    messages: list[Any] = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "weather"}, {"type": "text", "text": "please"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    system.client.chat.completions.create(model="demo", messages=messages, tools=TOOLS)
    parsed = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln"}}}
    expected = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "weather\nplease"},
        {"role": "assistant", "content": "", "tool_calls": [parsed]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    assert system.stub.requests[-1].token_ids == pack_ids(system.tokenizer.apply_chat_template(expected, TOOLS), 512)


def test_models_are_listed_and_found_by_name(system: System) -> None:
    assert [model.id for model in system.client.models.list()] == ["demo", "org/demo"]
    assert system.client.models.retrieve("org/demo").id == "org/demo"
    assert system.http.get("/v1/models/org%2Fdemo").json()["max_model_len"] == 2048
    with pytest.raises(openai.NotFoundError):
        system.client.models.retrieve("other")


def test_metrics_count_tokens_and_responses(system: System) -> None:
    before = metric(system, "nano_router_completion_tokens_total")
    system.client.chat.completions.create(model="demo", messages=HI)
    assert metric(system, "nano_router_completion_tokens_total") == before + len(system.script.tokens) + 1
    assert metric(system, 'nano_router_engine_up{engine="e0",role="hybrid"}') == 1
    assert metric(system, "nano_router_running") == 0


def metric(system: System, name: str) -> float:
    lines = system.http.get("/metrics").text.splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + " "))


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_sampling_parameters_reach_the_engine(system: System, path: str) -> None:
    asked: dict[str, Any] = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.05, "repetition_penalty": 1.1,
        "presence_penalty": -0.5, "frequency_penalty": 1.5, "seed": 11, "min_tokens": 2,
    }  # fmt: skip
    prompt = {"messages": HI} if path.startswith("chat") else {"prompt": "x"}
    body = {"model": "demo", **prompt, **asked, "logit_bias": {"7": 1.5, "300": -100}, "n": 2}
    assert system.http.post(f"/v1/{path}", json=body).status_code == 200
    for i, request in enumerate(system.stub.requests):
        assert request.sampling.logit_bias == {7: 1.5, 300: -100.0}
        assert request.sampling.logprobs == -1
        for name, value in asked.items():
            assert getattr(request.sampling, name) == (value + i if name == "seed" else value)


# --- log-probabilities ------------------------------------------------------------------------------------------------


def content(chunks: list[Any]) -> list[Any]:
    return [one for chunk in chunks if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]


def expect_tokens(system: System, found: list[Any], top: int) -> None:
    """The log-probabilities that the stub makes up, for each token of TEXT."""
    table, tokens = system.tokenizer.id_to_bytes, list(system.script.tokens)
    assert b"".join(bytes(one.bytes) for one in found) == TEXT.encode()
    assert [bytes(one.bytes) for one in found] == [table[token] for token in tokens]
    assert [one.token for one in found] == [table[token].decode(errors="replace") for token in tokens]
    assert {one.logprob for one in found} == {-0.5}
    for one, token in zip(found, tokens, strict=True):
        assert [best.logprob for best in one.top_logprobs] == [-0.5 - i for i in range(top)]
        assert all(bytes(best.bytes or []) == table[token + i] for i, best in enumerate(one.top_logprobs))
        assert all(best.token for best in one.top_logprobs), "special tokens have their name"


@pytest.mark.parametrize("top", [0, 3])
def test_a_chat_brings_the_logprobs_of_its_tokens(system: System, top: int) -> None:
    answer = system.client.chat.completions.create(
        model="demo", messages=HI, logprobs=True, top_logprobs=top or openai.NOT_GIVEN
    )
    assert last_sampling(system).logprobs == top
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].logprobs is not None
    expect_tokens(system, answer.choices[0].logprobs.content or [], top)


@pytest.mark.parametrize("burst", [1, 3, 1000])
def test_a_stream_brings_logprobs_with_the_text_that_they_are_of(system: System, burst: int) -> None:
    system.say(TEXT, burst=burst)
    stream = system.client.chat.completions.create(
        model="demo", messages=HI, logprobs=True, top_logprobs=2, stream=True
    )
    chunks = list(stream)
    expect_tokens(system, content(chunks), 2)
    said = sent = b""
    for chunk in chunks:
        said += (chunk.choices[0].delta.content or "").encode()
        sent += b"".join(bytes(one.bytes) for one in content([chunk]))
        assert sent.startswith(said) if b"\xef\xbf\xbd" not in said else True
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("burst", [1, 1000])
def test_tokens_of_a_stop_string_have_no_logprobs(system: System, stream: bool, burst: int) -> None:
    system.say(TEXT, burst=burst)
    answer = system.client.chat.completions.create(
        model="demo", messages=HI, logprobs=True, stop=["quot"], stream=stream
    )
    chunks = list(answer) if stream else [answer]
    text = TEXT[: TEXT.index("quot")].encode()
    found = [bytes(one.bytes) for one in content(chunks)]
    assert b"".join(found).startswith(text)
    assert len(b"".join(found[:-1])) < len(text), "the last token begins in the text"


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_brings_logprobs_as_columns(system: System, stream: bool) -> None:
    system.say("Hello, world")
    answer = system.client.completions.create(model="demo", prompt="x", logprobs=2, stream=stream, max_tokens=100)
    found = [chunk.choices[0].logprobs for chunk in (answer if stream else [answer]) if chunk.choices[0].logprobs]
    tokens = [token for one in found for token in one.tokens or []]
    assert "".join(tokens) == "Hello, world"
    assert [value for one in found for value in one.token_logprobs or []] == [-0.5] * len(tokens)
    offsets = [offset for one in found for offset in one.text_offset or []]
    assert offsets == [len("".join(tokens[:i])) for i in range(len(tokens))]
    for token, top in zip(tokens, [top for one in found for top in one.top_logprobs or []], strict=True):
        assert top[token] == -0.5
        assert sorted(top.values()) == [-1.5, -0.5]


def test_a_completion_without_alternatives_has_those_of_its_tokens_alone(system: System) -> None:
    answer = system.client.completions.create(model="demo", prompt="x", logprobs=0, max_tokens=3)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.token_logprobs == [-0.5] * 3
    assert answer.choices[0].logprobs.top_logprobs is None
    assert system.client.completions.create(model="demo", prompt="x").choices[0].logprobs is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_call_has_logprobs_too(system: System, stream: bool) -> None:
    system.say(CALL, burst=4)
    answer = system.client.chat.completions.create(model="demo", messages=HI, tools=TOOLS, logprobs=True, stream=stream)
    chunks = list(answer) if stream else [answer]
    assert b"".join(bytes(one.bytes) for one in content(chunks)) == CALL.encode()
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_choices_have_their_own_logprobs(system: System) -> None:
    answer = system.client.chat.completions.create(model="demo", messages=HI, n=2, logprobs=True)
    for choice in answer.choices:
        assert choice.logprobs is not None
        expect_tokens(system, choice.logprobs.content or [], 0)


# --- errors ----------------------------------------------------------------------------------------------------------


def post(system: System, path: str = "/v1/chat/completions", **body: Any) -> tuple[int, dict[str, Any]]:
    if path == "/v1/chat/completions":
        body.setdefault("messages", HI)
    body.setdefault("model", "demo")
    response = system.http.post(path, json=body)
    return response.status_code, response.json()["error"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
        ({"logit_bias": {"512": 1}}, "logit_bias"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": -2.5}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_p": 1.5}, "min_p"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"store": True}, "store"),
        ({"functions": []}, "functions"),
        ({"tool_choice": "required", "tools": TOOLS}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "get_weather"}}, "tools": TOOLS}, "tool_choice"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, "tools[0].function.strict"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ""}, "stop"),
        ({"stream_options": {"x": 1}}, "stream_options.x"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "user", "content": "x", "mood": "good"}]}, "messages[0].mood"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"stop_token_ids": [512]}, "stop_token_ids"),
    ],
)
def test_a_chat_that_is_not_served_is_refused_by_the_fields_name(
    system: System, body: dict[str, Any], param: str
) -> None:
    status, error = post(system, **body)
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert param.split("[")[0].split(".")[0] in error["message"]
    assert not system.stub.requests


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x", "echo": True}, "echo"),
        ({"prompt": "x", "logprobs": True}, "logprobs"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "top_logprobs": 2}, "top_logprobs"),
        ({"prompt": "x", "best_of": 2}, "best_of"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "messages": HI}, "messages"),
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["x", 1]}, "prompt"),
        ({"prompt": [512]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [2**70]}, "prompt"),
        ({"prompt": ["x"] * 65, "n": 2}, "prompt"),
    ],
)
def test_a_completion_that_is_not_served_is_refused_by_the_fields_name(
    system: System, body: dict[str, Any], param: str
) -> None:
    status, error = post(system, "/v1/completions", **body)
    assert (status, error["param"]) == (400, param)
    assert not system.stub.requests


def test_fields_that_ask_for_nothing_are_accepted(system: System) -> None:
    neutral = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": None,
        "logprobs": False,
        "response_format": {"type": "text"},
        "parallel_tool_calls": True,
        "service_tier": "auto",
        "store": False,
        "user": "me",
        "metadata": {"a": "b"},
        "stream_options": None,
        "tools": None,
        "modalities": ["text"],
    }
    assert (
        system.http.post("/v1/chat/completions", json={"model": "demo", "messages": HI, **neutral}).status_code == 200
    )


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(system: System) -> None:
    for body in ({"messages": [{"role": "user", "content": "x " * 3000}]}, {"max_tokens": 2040}):
        status, error = post(system, **body)
        assert (status, error["code"]) == (400, "context_length_exceeded")
        assert "2048" in error["message"]
        assert len([word for word in error["message"].replace(",", "").split() if word.isdigit()]) >= 2
    assert not system.stub.requests


def test_an_unknown_model_is_404_an_unknown_path_too_and_a_wrong_method_405(system: System) -> None:
    status, error = post(system, model="other")
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert system.http.get("/v2").status_code == 404
    assert system.http.get("/v1/chat/completions").status_code == 405


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"model": "\xff"}', b'{"a":' * 5000, b'{"model":"demo","messages":"\\ud800"}', b"null"]
)
def test_a_body_that_is_no_request_is_400(system: System, body: bytes) -> None:
    response = system.http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_template_that_rejects_the_messages_is_400(system: System) -> None:
    arguments = {"id": "1", "function": {"name": "f", "arguments": "{no"}}
    status, error = post(system, messages=[*HI, {"role": "assistant", "tool_calls": [arguments]}])
    assert (status, error["param"]) == (400, "messages[1].tool_calls[0].function.arguments")


def test_a_long_prompt_is_encoded_as_a_short_one(system: System) -> None:
    system.say("ok")
    text = "x " * 20000
    status, error = post(system, messages=[{"role": "user", "content": text}])
    prompt = system.tokenizer.apply_chat_template([{"role": "user", "content": text}])
    assert status == 400
    assert str(len(prompt)) in error["message"]


@pytest.mark.parametrize(
    ("code", "status"),
    [("invalid", 400), ("overloaded", 503), ("peer_lost", 502), ("deadline", 504), ("internal", 500)],
)
def test_an_engines_failure_is_an_error_with_its_message(system: System, code: str, status: int) -> None:
    system.script = Script([], fail=wire.Failure(code, "prefill p0: it broke", True), stop_token=65)
    system.script.tokens = [65]
    response = system.http.post("/v1/chat/completions", json={"model": "demo", "messages": HI})
    assert response.status_code == status
    assert response.json()["error"]["message"] == "prefill p0: it broke"
    assert ("retry-after" in response.headers) == (status == 503)


def test_an_engines_failure_in_a_stream_is_an_error_event(system: System) -> None:
    system.say("so far", step_s=0.02, fail=wire.Failure("internal", "it broke", False))
    got: list[str] = []
    stream = system.client.chat.completions.create(model="demo", messages=HI, stream=True)
    with pytest.raises(openai.APIError, match="it broke"):
        got.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(got) == "so far"


def test_an_output_index_out_of_order_fails_the_request_alone(system: System) -> None:
    system.say("abc", first_index=1)
    status, error = post(system)
    assert status == 500
    assert "output index: expected 0, got 1" in error["message"]
    assert system.stub.wait_for(lambda: len(system.stub.aborted) == 1)
    system.say(TEXT)
    assert system.client.chat.completions.create(model="demo", messages=HI).choices[0].message.content == TEXT


# --- clients and engines that go -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("silent", [False, True])
def test_a_client_that_leaves_aborts_its_request_on_the_engine(system: System, stream: bool, silent: bool) -> None:
    system.script = Script([65], repeat=True, step_s=0.01, silent=silent)
    body = json.dumps({"model": "demo", "messages": HI, "stream": stream, "n": 2}).encode()
    with socket.create_connection(("127.0.0.1", system.router.port)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        if stream and not silent:
            assert connection.recv(100)
        assert system.stub.wait_for(lambda: len(system.stub.requests) == 2)
    left = time.monotonic()
    assert system.stub.wait_for(lambda: len(system.stub.aborted) == 2)
    assert time.monotonic() - left < 1.0
    assert sorted(system.stub.aborted) == sorted(request.key for request in system.stub.requests)
    wait_until(lambda: metric(system, "nano_router_running") == 0)
    assert metric(system, 'nano_router_engine_load{engine="e0"}') == 0


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_of_a_request_outlives_it(system: System, stream: bool) -> None:
    system.say("a b c", step_s=0.05)  # long enough to be watched for its client's leaving
    for _ in range(3):
        system.http.post("/v1/chat/completions", json={"model": "demo", "messages": HI, "stream": stream})

    def gone() -> bool:
        gc.collect()
        return not any(type(thing) is Generation for thing in gc.get_objects())

    wait_until(gone)


@contextmanager
def running(model_dir: Path, tokenizer: Tokenizer, **config: Any) -> Iterator[System]:
    system = System(model_dir, tokenizer, **config)
    try:
        yield system
    finally:
        system.close()


def test_an_engine_killed_mid_stream_ends_it_with_an_error_and_is_used_again_within_a_second_of_its_return(
    model_dir: Path, tokenizer: Tokenizer
) -> None:
    with running(model_dir, tokenizer) as system:
        system.script = Script([65], repeat=True, step_s=0.01)
        stream = system.client.chat.completions.create(model="demo", messages=HI, stream=True)
        next(iter(stream))
        killed = time.monotonic()
        system.stub.close()
        with pytest.raises(openai.APIError, match="e0: connection lost"):
            list(stream)
        assert time.monotonic() - killed < 1.0

        response = system.http.post("/v1/chat/completions", json={"model": "demo", "messages": HI})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "e0" in response.json()["error"]["message"]
        assert system.http.get("/ready").status_code == 503

        system.stub = Stub("e0", system.stub.address, lambda _: system.script)
        system.say(TEXT)
        assert wait_until(system.ready) < 1.0
        answer = system.client.chat.completions.create(model="demo", messages=HI)
        assert answer.choices[0].message.content == TEXT


def test_a_frozen_engine_fails_what_it_runs_and_is_used_again_once_it_thaws(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SILENT_S", 1.5)
    script = Path(__file__).parents[2] / "bench" / "router" / "engine_stub.py"
    command = [sys.executable, str(script), "--name", "e0", "--address", "tcp://127.0.0.1:*", "--step_ms", "20"]
    environment = {**os.environ, "PYTHONPATH": str(Path(nano.__file__).parents[1])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    router = None
    try:
        assert process.stdout is not None
        info = Stub.describe(process.stdout.readline().strip(), model_path=str(model_dir))
        router = RouterThread({"e0": info})
        with httpx.Client(base_url=router.url, timeout=10) as http:
            wait_until(lambda: http.get("/ready").status_code == 200)
            body = {"model": "demo", "messages": HI, "stream": True}
            with http.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()
                next(lines)
                process.send_signal(signal.SIGSTOP)
                frozen = time.monotonic()
                assert "answered no ping" in [line for line in lines if line][-1]
                assert time.monotonic() - frozen < 4.0
            assert http.get("/ready").status_code == 503
            process.send_signal(signal.SIGCONT)
            assert wait_until(lambda: http.get("/ready").status_code == 200) < 1.0
            short = {"model": "demo", "prompt": "x", "max_tokens": 2}
            assert http.post("/v1/completions", json=short).status_code == 200
    finally:
        if router is not None:
            router.close()
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "frames", [[b"garbage"], [b""], [b"a", b"b"], [b"\xc1"], [b"\x96" + b"\xa7outputs" + b"\xc4\x01x" * 5]]
)
def test_garbage_from_an_engine_fails_what_it_runs_and_the_router_connects_anew(
    model_dir: Path, tokenizer: Tokenizer, frames: list[bytes]
) -> None:
    with running(model_dir, tokenizer) as system:
        system.script = Script(silent=True)
        outcome: list[int] = []
        thread = threading.Thread(target=lambda: outcome.append(post(system)[0]))
        thread.start()
        assert system.stub.wait_for(lambda: len(system.stub.requests) == 1)
        system.stub.send_raw(frames)
        thread.join(5)
        assert outcome == [502]
        assert metric(system, 'nano_router_engine_garbage_total{engine="e0"}') == 1
        system.say(TEXT)
        assert wait_until(system.ready) < 1.0
        assert system.client.chat.completions.create(model="demo", messages=HI).choices[0].message.content == TEXT


def test_rows_of_unknown_keys_are_dropped(system: System) -> None:
    rows = wire.Outputs(b"\1" * 8, bytes(4), bytes(4), bytes(1), bytes(4))
    system.stub.send_raw([wire.encode(rows)])
    assert system.client.chat.completions.create(model="demo", messages=HI).choices[0].message.content == TEXT


def test_an_engine_that_says_nothing_for_too_long_fails_the_request(model_dir: Path, tokenizer: Tokenizer) -> None:
    with running(model_dir, tokenizer, silence_timeout_s=0.5) as system:
        system.script = Script(silent=True)
        status, error = post(system)
        assert (status, error["code"]) == (504, "deadline")
        assert system.stub.wait_for(lambda: len(system.stub.aborted) == 1)


def test_a_body_over_the_limit_is_413_however_it_is_sent(model_dir: Path, tokenizer: Tokenizer) -> None:
    with running(model_dir, tokenizer, max_body_bytes=1000) as system:
        system.say(TEXT)
        assert post(system, messages=[{"role": "user", "content": "x" * 1000}])[0] == 413
        chunked = system.http.post("/v1/chat/completions", content=(b"x" * 300 for _ in range(4)))
        assert chunked.status_code == 413
        assert system.client.chat.completions.create(model="demo", messages=HI).choices[0].message.content == TEXT


def test_a_stop_signal_lets_streams_finish_and_refuses_new_connections(model_dir: Path, tokenizer: Tokenizer) -> None:
    system = System(model_dir, tokenizer)
    system.say("a b c d e f g h", step_s=0.02)
    stream = system.client.chat.completions.create(model="demo", messages=HI, stream=True)
    next(iter(stream))
    closing = threading.Thread(target=system.router.close)
    closing.start()
    try:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "a b c d e f g h"
    finally:
        closing.join(10)
        system.stub.close()
        system.client.close()
    assert not closing.is_alive()
    with pytest.raises(httpx.ConnectError):
        system.http.get("/health")
    system.http.close()


def test_a_stream_that_outlives_the_drain_ends_with_an_error(model_dir: Path, tokenizer: Tokenizer) -> None:
    system = System(model_dir, tokenizer, drain_s=0.3)
    system.script = Script([65], repeat=True, step_s=0.05)
    stream = system.client.chat.completions.create(model="demo", messages=HI, stream=True)
    next(iter(stream))
    closing = threading.Thread(target=system.router.close)
    started = time.monotonic()
    closing.start()
    try:
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        assert system.stub.wait_for(lambda: len(system.stub.aborted) == 1)
    finally:
        closing.join(10)
        system.http.close()
        system.client.close()
        system.stub.close()
    assert time.monotonic() - started < 3.0


# --- disaggregated ---------------------------------------------------------------------------------------------------


def test_prefill_and_decode_engines_are_paired_by_layout_and_in_turn(model_dir: Path, tokenizer: Tokenizer) -> None:
    script = Script([65], stop_token=tokenizer.eos_token_id or 0)
    roles = {"d0": "decode", "d1": "decode", "p0": "prefill", "p1": "prefill", "p2": "prefill"}
    stubs = {name: Stub(name, "tcp://127.0.0.1:*", lambda _: script) for name in roles}
    infos = {
        name: stub.info(role=roles[name], model_path=str(model_dir), layout="bb" if name in ("d1", "p2") else "aa")
        for name, stub in stubs.items()
    }
    router = RouterThread(infos)
    with httpx.Client(base_url=router.url) as http:
        try:
            wait_until(lambda: metric_up(http) == 5)
            for _ in range(8):
                assert http.post("/v1/completions", json={"model": "demo", "prompt": "x"}).status_code == 200
            assert {r.prefill_name for r in stubs["d0"].requests} == {"p0", "p1"}
            assert {r.prefill_name for r in stubs["d1"].requests} == {"p2"}
            assert len(stubs["d0"].requests) == len(stubs["d1"].requests) == 4
            assert stubs["d1"].requests[0].prefill_address == stubs["p2"].address
            assert not stubs["p0"].requests

            stubs["p2"].close()
            wait_until(lambda: metric_up(http) == 4)
            stubs["d1"].requests.clear()
            for _ in range(4):
                assert http.post("/v1/completions", json={"model": "demo", "prompt": "x"}).status_code == 200
            assert not stubs["d1"].requests
            stubs["p0"].close()
            stubs["p1"].close()
            wait_until(lambda: metric_up(http) == 2)
            ready = http.get("/ready")
            assert ready.status_code == 503
            assert "no prefill engine" in ready.text
        finally:
            router.close()
            for stub in stubs.values():
                stub.close()


def test_engines_of_different_kv_layouts_alone_are_named_by_layout(model_dir: Path, tokenizer: Tokenizer) -> None:
    script = Script([65], stop_token=tokenizer.eos_token_id or 0)
    layouts = {"decode": "bfloat16, 2 layers", "prefill": "float8_e4m3fn, 2 layers"}
    stubs = {role: Stub(role, "tcp://127.0.0.1:*", lambda _: script) for role in layouts}
    router = RouterThread(
        {r: stub.info(role=r, model_path=str(model_dir), layout=layouts[r]) for r, stub in stubs.items()}
    )
    with httpx.Client(base_url=router.url) as http:
        try:
            wait_until(lambda: metric_up(http) == 2)
            lack = "decode: bfloat16, 2 layers; prefill: float8_e4m3fn, 2 layers"
            assert lack in http.get("/ready").text
        finally:
            router.close()
            for stub in stubs.values():
                stub.close()


def metric_up(http: httpx.Client) -> int:
    return sum(line.endswith(" 1.0") for line in http.get("/metrics").text.splitlines() if "engine_up{" in line)


def test_no_engine_at_all_is_503_with_retry_after() -> None:
    router = RouterThread({})
    try:
        response = httpx.post(router.url + "/v1/chat/completions", json={"model": "demo", "messages": HI})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert httpx.get(router.url + "/ready").text == "no engine is registered\n"
        assert httpx.get(router.url + "/health").status_code == 200
    finally:
        router.close()


def test_a_model_whose_tokenizer_is_missing_says_so(tmp_path: Path) -> None:
    stub = Stub("e0", "tcp://127.0.0.1:*", lambda _: Script())
    router = RouterThread({"e0": stub.info(model_path=str(tmp_path))})
    try:
        wait_until(lambda: "tokenizer.json" in httpx.get(router.url + "/ready").text)
    finally:
        router.close()
        stub.close()


# --- the process -----------------------------------------------------------------------------------------------------


def test_a_busy_port_is_named_by_its_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        command = [sys.executable, "-m", "nano.router", "--port", str(port), "--nanoctrl-address", "127.0.0.1:1"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert run.returncode == 2
    assert "--port" in run.stderr
    assert str(port) in run.stderr


def test_sigterm_ends_the_process_cleanly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "nano.router", "--port", str(port), "--nanoctrl_address", "127.0.0.1:1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONWARNINGS": "error"})
    try:
        wait_until(lambda: alive(port), timeout=15)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.communicate()


def alive(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


# --- with the registry -----------------------------------------------------------------------------------------------


def test_engines_come_move_and_leave_with_the_registry(model_dir: Path, tokenizer: Tokenizer) -> None:
    with EmbeddedRedis() as redis, connect(redis.url, "s") as registry:
        router = RouterThread(None, nanoctrl_address=redis.url, nanoctrl_scope="s")
        script = Script([65], stop_token=tokenizer.eos_token_id or 0)
        stub = Stub("e0", "tcp://127.0.0.1:*", lambda _: script)
        with httpx.Client(base_url=router.url) as http:
            try:
                assert http.get("/ready").status_code == 503
                meta = msgspec.to_builtins(stub.info(model_path=str(model_dir)))
                registration = registry.register("engine", "e0", meta, incarnation=stub.incarnation)
                wait_until(lambda: http.get("/ready").status_code == 200)
                assert http.post("/v1/completions", json={"model": "demo", "prompt": "x"}).status_code == 200

                stub.close()  # and back under the same name, elsewhere
                stub = Stub("e0", "tcp://127.0.0.1:*", lambda _: script)
                meta = msgspec.to_builtins(stub.info(model_path=str(model_dir)))
                registration = registry.register("engine", "e0", meta, incarnation=stub.incarnation)
                started = time.monotonic()
                wait_until(lambda: http.get("/ready").status_code == 200)
                assert http.post("/v1/completions", json={"model": "demo", "prompt": "x"}).status_code == 200
                assert time.monotonic() - started < 1.0
                assert len(stub.requests) == 1

                registration.close()
                wait_until(lambda: http.get("/ready").status_code == 503)
                response = http.post("/v1/completions", json={"model": "demo", "prompt": "x"})
                assert response.status_code == 503
                assert http.post("/v1/completions", json={"model": "other", "prompt": "x"}).status_code == 404
            finally:
                router.close()
                stub.close()


def test_an_engine_that_answers_is_used_while_the_registry_is_gone(model_dir: Path) -> None:
    stub = Stub("e0", "tcp://127.0.0.1:*", lambda _: Script([65]))
    with EmbeddedRedis() as redis:
        with connect(redis.url, "s") as registry:
            meta = msgspec.to_builtins(stub.info(model_path=str(model_dir)))
            registry.register("engine", "e0", meta, incarnation=stub.incarnation)
        router = RouterThread(None, nanoctrl_address=redis.url, nanoctrl_scope="s")
        wait_until(lambda: httpx.get(router.url + "/ready").status_code == 200)
    try:
        body = {"model": "demo", "prompt": "x"}
        assert httpx.post(router.url + "/v1/completions", json=body).status_code == 200
    finally:
        router.close()
        stub.close()
