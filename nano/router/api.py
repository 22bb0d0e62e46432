"""The OpenAI requests as types, and what is served of them.

https://platform.openai.com/docs/api-reference/chat/create and …/completions/create. A documented field that is not
served is declared here as well, so that its neutral value passes and any other is refused by name. Besides OpenAI's
fields there are top_k, min_p, repetition_penalty, min_tokens, ignore_eos, stop_token_ids (as in other open servers) and
chat_template_kwargs.
"""

from __future__ import annotations

import re
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta

from nano.router.errors import ApiError, invalid, unsupported
from nano.sampling import MAX_LOGPROBS

MAX_STOPS = 4
MAX_STOP_LENGTH = 1024
MAX_CHOICES = 128
MAX_BIASES = 1024

Positive = Annotated[int, Meta(ge=1)]
Temperature = Annotated[float, Meta(ge=0.0, le=2.0)]
TopP = Annotated[float, Meta(gt=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
NotNegative = Annotated[int, Meta(ge=0)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
Bias = Annotated[float, Meta(ge=-100.0, le=100.0)]
Logprobs = Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)]
Maybe = Any  # a field that is declared only to be refused


class TextPart(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    text: str


class RefusalPart(msgspec.Struct, tag_field="type", tag="refusal", forbid_unknown_fields=True):
    refusal: str


class ImagePart(msgspec.Struct, tag_field="type", tag="image_url"):
    pass


class AudioPart(msgspec.Struct, tag_field="type", tag="input_audio"):
    pass


class FilePart(msgspec.Struct, tag_field="type", tag="file"):
    pass


Part = TextPart | RefusalPart | ImagePart | AudioPart | FilePart
Content = str | list[Part]


class FunctionCall(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: str


class ToolCall(msgspec.Struct, forbid_unknown_fields=True):
    function: FunctionCall
    id: str = ""
    type: Literal["function"] = "function"
    index: int = 0  # clients that gather a stream send it back


class SystemMessage(msgspec.Struct, tag_field="role", tag="system", forbid_unknown_fields=True):
    content: Content
    name: str | None = None


class DeveloperMessage(msgspec.Struct, tag_field="role", tag="developer", forbid_unknown_fields=True):
    content: Content
    name: str | None = None


class UserMessage(msgspec.Struct, tag_field="role", tag="user", forbid_unknown_fields=True):
    content: Content
    name: str | None = None


class AssistantMessage(msgspec.Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True):
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    refusal: str | None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None  # part of OpenAI's answers, so it comes back; it has no text


class ToolMessage(msgspec.Struct, tag_field="role", tag="tool", forbid_unknown_fields=True):
    content: Content
    tool_call_id: str = ""
    name: str | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class _Common(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: str
    max_tokens: Positive | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: Count | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_tokens: NotNegative | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=100.0)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Annotated[dict[int, Bias], Meta(max_length=MAX_BIASES)] | None = None
    user: str | None = None
    metadata: Any = None


class ChatRequest(_Common, forbid_unknown_fields=True, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Logprobs | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    audio: Maybe = UNSET
    function_call: Maybe = UNSET
    functions: Maybe = UNSET
    modalities: Maybe = UNSET
    parallel_tool_calls: Maybe = UNSET
    prediction: Maybe = UNSET
    reasoning_effort: Maybe = UNSET
    response_format: Maybe = UNSET
    service_tier: Maybe = UNSET
    store: Maybe = UNSET
    verbosity: Maybe = UNSET
    web_search_options: Maybe = UNSET


class CompletionRequest(_Common, forbid_unknown_fields=True, kw_only=True):
    prompt: str | list[str | int | list[int]]
    logprobs: Logprobs | bool | None = None
    best_of: Maybe = UNSET
    echo: Maybe = UNSET
    suffix: Maybe = UNSET


# The values of unserved fields that ask for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "function_call": (None,),
    "functions": (None,),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "verbosity": (None,),
    "web_search_options": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None,),
}


class _Decoder:
    """Decodes one kind of request; what it returns asks for nothing that is not served."""

    def __init__(self, kind: type[ChatRequest] | type[CompletionRequest]) -> None:
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
        self._unserved = tuple(name for name in kind.__struct_fields__ if name in _NEUTRAL)
        self._get = attrgetter(*self._unserved)
        self._nothing = (UNSET,) * len(self._unserved)

    def decode(self, body: bytes) -> Any:
        try:
            request = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise _explain(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise invalid(None, f"the body is not valid JSON: {error}") from None
        except RecursionError:
            raise invalid(None, "the body is not valid JSON: it is nested too deeply") from None
        values = self._get(request)
        if values != self._nothing:
            self._refuse(values)
        return request

    def _refuse(self, values: tuple[Any, ...]) -> None:
        for name, value in zip(self._unserved, values, strict=True):
            if value is not UNSET and not any(_same(value, neutral) for neutral in _NEUTRAL[name]):
                raise unsupported(name)


def _same(value: Any, neutral: Any) -> bool:
    """Equal as JSON: there 0 is not false."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)


_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_PATH = re.compile(r" - at `\$\.?([^`]*)`")


def _explain(text: str) -> ApiError:
    """msgspec says "Expected `int`, got `str` - at `$.max_tokens`"; OpenAI wants the field's name apart."""
    path = _PATH.search(text)
    where = path.group(1) if path else ""
    message = _PATH.sub("", text)
    unknown = _UNKNOWN.search(text)
    named = unknown or _MISSING.search(text)
    if named:
        where = f"{where}.{named.group(1)}" if where else named.group(1)
    if unknown:
        return ApiError(400, f"unknown field: {where}", param=where, code="unknown_parameter")
    return ApiError(400, f"{where or 'body'}: {message}", param=where or None, code="invalid_value")


_chat = _Decoder(ChatRequest)
_completion = _Decoder(CompletionRequest)


def decode_chat(body: bytes) -> ChatRequest:
    """Raises ApiError naming the field at fault."""
    request: ChatRequest = _chat.decode(body)
    return request


def decode_completion(body: bytes) -> CompletionRequest:
    """Raises ApiError naming the field at fault."""
    request: CompletionRequest = _completion.decode(body)
    return request


def stops(request: ChatRequest | CompletionRequest) -> tuple[str, ...]:
    stop = request.stop
    if not stop:
        if stop == "":
            raise invalid("stop", "stop: expected one character or more, got an empty string")
        return ()
    found = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(found) > MAX_STOPS:
        raise invalid("stop", f"stop: expected up to {MAX_STOPS} strings, got {len(found)}")
    for i, one in enumerate(found):
        if not 0 < len(one) <= MAX_STOP_LENGTH:
            raise invalid(f"stop[{i}]", f"stop[{i}]: expected 1 to {MAX_STOP_LENGTH} characters, got {len(one)}")
    return found


def logprobs(request: ChatRequest | CompletionRequest) -> int:
    """How many of the most probable tokens to report beside each chosen one; -1: report nothing."""
    asked = request.logprobs
    if isinstance(request, ChatRequest):
        if asked:
            return request.top_logprobs or 0
        if request.top_logprobs is not None:
            raise invalid("top_logprobs", "top_logprobs: expected logprobs: true beside it")
        return -1
    if asked is True:
        raise invalid("logprobs", f"logprobs: expected 0 to {MAX_LOGPROBS}, got true")
    return -1 if asked is None or asked is False else asked


class Model(msgspec.Struct):
    id: str
    created: int
    owned_by: str
    max_model_len: int
    object: Literal["model"] = "model"


class ModelList(msgspec.Struct):
    data: list[Model]
    object: Literal["list"] = "list"
