"""The unmodified openai package against `python -m nano.serve` and the demo model, every prompt prefilled apart."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from launched import Serve

SUM: list[Any] = [{"role": "user", "content": "1+1=?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string", "description": "The city"}},
            "required": ["location"],
        },
    },
}

pytestmark = pytest.mark.timeout(60)


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def serve(launch: Callable[..., Serve]) -> Serve:
    serve = launch("--local_prefill_tokens", "0", "--kvcache_block_size", "16")
    serve.wait_line(r"^ready in ")
    return serve


@pytest.fixture(scope="module")
def client(serve: Serve) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{serve.url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        yield client


def metric(serve: Serve, name: str) -> float:
    lines = httpx.get(f"{serve.url}/metrics").text.splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + " "))


def test_a_chat_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=SUM)
    assert answer.object == "chat.completion"
    assert answer.model == "demo"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "2"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens == 2  # the digit and the end of the turn


def test_a_stream_brings_the_text_of_the_whole_answer(client: openai.OpenAI) -> None:
    messages = said("Who are you?")
    whole = client.chat.completions.create(model="demo", messages=messages, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="demo", messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    *deltas, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert whole.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (
        whole.usage.prompt_tokens,
        whole.usage.completion_tokens,
    )
    assert all(chunk.usage is None for chunk in deltas)
    assert deltas[0].choices[0].delta.role == "assistant"
    text = [chunk.choices[0].delta.content or "" for chunk in deltas]
    assert "".join(text) == whole.choices[0].message.content
    assert len([piece for piece in text if piece]) > 5, "the text came in pieces"
    reasons = [chunk.choices[0].finish_reason for chunk in deltas]
    assert reasons == [None] * (len(deltas) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_every_prompt_is_prefilled_by_the_prefill_engine(serve: Serve, client: openai.OpenAI) -> None:
    """While it is frozen nothing is answered; once it goes on, the decode engine has the KV and the answer comes."""
    assert metric(serve, 'nano_router_engine_up{engine="prefill-0",role="prefill"}') == 1
    assert metric(serve, 'nano_router_engine_up{engine="decode-0",role="decode"}') == 1
    answers: list[Any] = []
    asked = threading.Thread(
        target=lambda: answers.append(client.chat.completions.create(model="demo", messages=said("What is 17 + 25?")))
    )
    prefill = serve.engine("prefill-0")
    prefill.send_signal(signal.SIGSTOP)
    try:
        asked.start()
        asked.join(1.0)
        assert not answers
        assert metric(serve, 'nano_router_engine_load{engine="prefill-0"}') == 1
    finally:
        prefill.send_signal(signal.SIGCONT)
    asked.join(10.0)
    assert answers[0].choices[0].message.content == "42"
    assert metric(serve, 'nano_router_engine_load{engine="prefill-0"}') == 0


def test_a_repeated_prompt_is_found_in_the_prefix_cache(client: openai.OpenAI) -> None:
    messages = said("Repeat: one two three four five six seven eight nine ten")
    first, second = (
        client.chat.completions.create(model="demo", messages=messages, temperature=0, max_tokens=8) for _ in range(2)
    )
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= 16
    assert second.choices[0].message.content == first.choices[0].message.content


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"


def test_completions_take_a_string_strings_ids_and_lists_of_ids(client: openai.OpenAI) -> None:
    def texts(prompt: Any) -> list[str]:
        answer = client.completions.create(model="demo", prompt=prompt, max_tokens=4, temperature=0)
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        return [choice.text for choice in answer.choices]

    from nano.demo import path
    from nano.tokenizer import Tokenizer

    chat = "<|im_start|>user\n1+1=?<|im_end|>\n<|im_start|>assistant\n"
    ids = Tokenizer.from_pretrained(path()).encode(chat)
    assert texts(chat) == ["2"]
    assert texts([chat, chat.replace("1+1", "3+4")]) == ["2", "7"]
    assert texts(ids) == ["2"]
    assert texts([ids, ids]) == ["2", "2"]
    stream = client.completions.create(model="demo", prompt=ids, max_tokens=4, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "2"


def test_n_choices_come_under_their_own_index(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=SUM, n=2, temperature=0)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [(0, "2"), (1, "2")]
    texts = ["", ""]
    for chunk in client.chat.completions.create(model="demo", messages=SUM, n=2, temperature=0, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == ["2", "2"]


def test_a_seed_decides_the_text(client: openai.OpenAI) -> None:
    def text(seed: int) -> str:
        answer = client.completions.create(
            model="demo", prompt="one", seed=seed, temperature=2.0, top_p=1.0, max_tokens=12
        )
        return answer.choices[0].text

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text(client: openai.OpenAI, stream: bool) -> None:
    messages = said("Repeat: alpha beta gamma delta")
    whole = client.chat.completions.create(model="demo", messages=messages, temperature=0)
    assert whole.choices[0].message.content == "alpha beta gamma delta"
    answer = client.chat.completions.create(
        model="demo", messages=messages, temperature=0, stop=["a ga"], stream=stream
    )
    choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
    text = "".join(one.delta.content or "" for one in choices) if stream else choices[0].message.content
    assert text == "alpha bet"
    assert choices[-1].finish_reason == "stop"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_limit_ends_the_text_with_length(client: openai.OpenAI, field: str) -> None:
    answer = client.chat.completions.create(model="demo", messages=said("Who are you?"), **{field: 3})  # type: ignore[call-overload]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_unicode_goes_in_and_comes_out_whole(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=said("Repeat: héllo wörld"), temperature=0)
    assert answer.choices[0].message.content == "héllo wörld"
    # The whole text decodes what the model wrote, so a stream that cut a character would differ.
    for text in ("Repeat: 世界 😀", "日本語 🏳️‍🌈 ß"):
        whole = client.chat.completions.create(model="demo", messages=said(text), temperature=0, max_tokens=40)
        stream = client.chat.completions.create(
            model="demo", messages=said(text), temperature=0, max_tokens=40, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole.choices[0].message.content


def test_a_tool_is_called_and_its_result_told(client: openai.OpenAI) -> None:
    messages = said("What's the weather in Paris?")
    call = client.chat.completions.create(model="demo", messages=messages, tools=[WEATHER], temperature=0)
    assert call.choices[0].finish_reason == "tool_calls"
    message = call.choices[0].message
    assert message.tool_calls is not None
    assert [one.function.name for one in message.tool_calls] == ["get_weather"]  # type: ignore[union-attr]
    assert json.loads(message.tool_calls[0].function.arguments) == {"location": "Paris"}  # type: ignore[union-attr]
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"temperature": 18}'}
    answer = client.chat.completions.create(
        model="demo", messages=[*messages, message, result], tools=[WEATHER], temperature=0
    )
    assert "18" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"


def test_a_tool_is_called_in_a_stream(client: openai.OpenAI) -> None:
    text, calls, reason = "", [], None
    stream = client.chat.completions.create(
        model="demo", messages=said("What's the weather in Paris?"), tools=[WEATHER], temperature=0, stream=True
    )
    for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        calls += chunk.choices[0].delta.tool_calls or []
        reason = chunk.choices[0].finish_reason
    assert text == ""
    assert reason == "tool_calls"
    assert calls[0].function is not None
    assert calls[0].id
    assert calls[0].function.name == "get_weather"
    arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    assert json.loads(arguments) == {"location": "Paris"}


def test_an_unknown_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody/nothing"):
        client.chat.completions.create(model="nobody/nothing", messages=SUM)


def test_an_unknown_field_is_400_and_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="demo", messages=SUM, extra_body={"best_off": 2})
    assert caught.value.param == "best_off"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="demo", messages=SUM, store=True)
    assert caught.value.param == "store"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_come_with_the_tokens_of_both_engines(client: openai.OpenAI, stream: bool) -> None:
    """The first is the prefill engine's, the others are the decode engine's."""
    messages = said("Repeat: alpha beta gamma")
    answer = client.chat.completions.create(
        model="demo", messages=messages, temperature=0, logprobs=True, top_logprobs=3, stream=stream
    )
    choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
    found = [one for choice in choices if choice.logprobs for one in choice.logprobs.content or []]
    assert "".join(one.token for one in found) == "alpha beta gamma"
    assert len(found) > 5
    for one in found:
        assert -1.0 < one.logprob <= 0.0, "the demo model is sure of what it repeats"
        assert one.logprob == max(best.logprob for best in one.top_logprobs)
        assert [best.logprob for best in one.top_logprobs] == sorted(
            (b.logprob for b in one.top_logprobs), reverse=True
        )
        assert len({best.token for best in one.top_logprobs}) == 3


def test_completions_have_logprobs_as_columns(client: openai.OpenAI) -> None:
    prompt = "<|im_start|>user\nRepeat: alpha beta<|im_end|>\n<|im_start|>assistant\n"
    answer = client.completions.create(model="demo", prompt=prompt, logprobs=2, temperature=0)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.tokens
    assert "".join(found.tokens) == answer.choices[0].text
    assert [len(top) for top in found.top_logprobs or []] == [2] * len(found.tokens)
    assert len(found.token_logprobs or []) == len(found.text_offset or []) == len(found.tokens)


def test_a_bias_forbids_and_forces_tokens(client: openai.OpenAI) -> None:
    from nano.demo import path
    from nano.tokenizer import Tokenizer

    two, seven = (str(Tokenizer.from_pretrained(path()).encode(digit)[0]) for digit in "27")
    forbidden = client.chat.completions.create(model="demo", messages=SUM, temperature=0, logit_bias={two: -100})
    assert forbidden.choices[0].message.content != "2"
    forced = client.chat.completions.create(
        model="demo", messages=SUM, temperature=0, max_tokens=3, logit_bias={seven: 100}
    )
    assert forced.choices[0].message.content == "777"


@pytest.mark.parametrize("penalty", [{"frequency_penalty": 2.0}, {"extra_body": {"repetition_penalty": 5.0}}])
def test_a_penalty_breaks_a_repetition(client: openai.OpenAI, penalty: dict[str, Any]) -> None:
    def text(**more: Any) -> str:
        answer = client.completions.create(model="demo", prompt="hello", temperature=0, max_tokens=12, **more)
        return answer.choices[0].text

    assert text() == "hel" * 12, "the demo model repeats itself on what is no chat"
    assert not text(**penalty).endswith("hel")


def test_min_p_of_1_is_greedy(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=SUM, temperature=2.0, seed=4, extra_body={"min_p": 1}
    )
    assert answer.choices[0].message.content == "2"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_400_with_both_numbers(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="demo", prompt=[65] * 3000, max_tokens=4, stream=stream)
    assert "3000" in caught.value.message
    assert "2048" in caught.value.message
    assert client.chat.completions.create(model="demo", messages=SUM).choices[0].message.content == "2"


def test_many_chats_at_once_each_get_their_own_answer(client: openai.OpenAI) -> None:
    pairs = [(a, b) for a in range(2, 6) for b in range(20, 24)]
    answers: dict[tuple[int, int], str | None] = {}

    def ask(a: int, b: int) -> None:
        answer = client.chat.completions.create(model="demo", messages=said(f"{a}+{b}=?"), temperature=0)
        answers[a, b] = answer.choices[0].message.content

    threads = [threading.Thread(target=ask, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == {(a, b): str(a + b) for a, b in pairs}


def test_the_readmes_curl_line_answers_2(serve: Serve) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    found = re.search(r"^ +(curl http://127\.0\.0\.1:8080/v1/chat/completions .*\\\n.*)$", readme, re.MULTILINE)
    assert found, "the README has the line"
    words = shlex.split(found[1].replace("\\\n", " "))
    words[1] = words[1].replace("http://127.0.0.1:8080", serve.url)
    done = subprocess.run([*words, "--silent"], capture_output=True, timeout=20, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "2"


def test_the_line_that_the_launcher_prints_is_the_readmes(serve: Serve) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    body = next(line for line in serve.lines if '"1+1=?"' in line)
    assert body.strip() in readme
