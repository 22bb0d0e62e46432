"""`nano.LLM`: offline generation in one process, and in two."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from reference import judge, load
from sampling_model import penalized

from nano import LLM, SamplingParams
from nano.errors import Closed, InvalidInput, PeerLost
from nano.llm import RequestOutput

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
PROMPTS = [[1, 2, 3], list(range(40, 90)), [7] * 5]


@pytest.fixture(scope="module")
def llm(tiny: Path) -> Iterator[LLM]:
    with LLM(str(tiny), threads=1, kvcache_block_size=16) as llm:
        yield llm


@pytest.fixture(autouse=True)
def warm(llm: LLM) -> None:
    """The shared engine starts before a test's counters are first read."""


def test_strings_and_ids_are_the_same_prompt(llm: LLM) -> None:
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode("hello there")
    text, same, one = (llm.generate(prompt, GREEDY) for prompt in ("hello there", ids, [ids]))
    assert len(text) == len(same) == len(one) == 1
    assert text[0].prompt_token_ids == same[0].prompt_token_ids == ids
    assert text[0].token_ids == same[0].token_ids == one[0].token_ids
    assert text[0].text == llm.tokenizer.decode(text[0].token_ids)
    assert llm.generate([], GREEDY) == []


def test_results_stand_in_the_order_of_the_prompts(llm: LLM, tiny: Path) -> None:
    lengths = [9, 1, 5]
    params = [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True) for n in lengths]
    outputs = llm.generate(PROMPTS, params)
    assert [len(output.token_ids) for output in outputs] == lengths
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        assert output.prompt_token_ids == prompt
        judge(tiny, prompt, output.token_ids)


def test_strings_and_ids_may_be_mixed(llm: LLM) -> None:
    mixed = llm.generate(["hello", [1, 2, 3]], GREEDY)
    assert mixed[0].token_ids == llm.generate("hello", GREEDY)[0].token_ids
    assert mixed[1].token_ids == llm.generate([1, 2, 3], GREEDY)[0].token_ids


def test_a_stop_string_ends_the_text_before_it(llm: LLM) -> None:
    whole = llm.generate([PROMPTS[0]], GREEDY)[0]
    stop = whole.text[4:6]
    assert stop, "the random model wrote too little"
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, stop=stop)
    output = llm.generate([PROMPTS[0]], params)[0]
    assert output.text == whole.text[: whole.text.index(stop)]
    assert output.finish_reason == "stop"
    assert len(output.token_ids) <= len(whole.token_ids)
    assert llm.generate([PROMPTS[0]], GREEDY)[0] == whole, "what was stopped left nothing behind"


def test_stop_ids_end_a_request_and_are_no_text(llm: LLM) -> None:
    whole = llm.generate([PROMPTS[1]], GREEDY)[0]
    assert whole.finish_reason == "length"
    last = whole.token_ids[5]
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, stop_token_ids=[last])
    output = llm.generate([PROMPTS[1]], params)[0]
    assert output.finish_reason == "stop"
    assert output.token_ids == whole.token_ids[: whole.token_ids.index(last) + 1]
    assert llm.tokenizer is not None
    assert output.text == llm.tokenizer.decode(output.token_ids[:-1])


def test_no_max_tokens_goes_to_the_models_length(tiny: Path) -> None:
    with LLM(str(tiny), threads=1, max_model_len=64) as llm:
        assert llm.max_model_len == 64
        output = llm.generate([[5] * 10], SamplingParams(temperature=0.0, max_tokens=None, ignore_eos=True))[0]
        assert len(output.prompt_token_ids) + len(output.token_ids) == 64
        assert output.finish_reason == "length"


def test_a_seed_decides_sampled_tokens(llm: LLM) -> None:
    def tokens(seed: int) -> list[int]:
        params = SamplingParams(temperature=1.5, max_tokens=12, seed=seed, ignore_eos=True)
        return llm.generate([PROMPTS[0]], params)[0].token_ids

    assert tokens(3) == tokens(3)
    assert len({tuple(tokens(seed)) for seed in range(4)}) > 1


PENALTIES = {
    "repetition": SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, repetition_penalty=1.3),
    "presence": SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, presence_penalty=1.5),
    "frequency": SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, frequency_penalty=-0.8),
    "bias": SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, logit_bias={7: 1.0, 9: -100.0, 300: 0.5}),
    "all": SamplingParams(
        temperature=0.0, max_tokens=12, ignore_eos=True, repetition_penalty=0.7, presence_penalty=0.3,
        frequency_penalty=0.2, logit_bias={7: 1.0}, logprobs=3,
    ),
}  # fmt: skip


def expect_penalized(path: Path, prompt: list[int], output: RequestOutput, params: SamplingParams) -> None:
    """Each token is the float64 reference's best one after bias and penalties; nearer than a tie, either is right."""
    tokens = output.token_ids
    with torch.inference_mode():
        rows = load(path)(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].double().numpy()
    for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        biased = row.copy()
        for id, bias in params.logit_bias.items():
            biased[id] += bias
        x = penalized(
            biased, prompt, tokens[:i], params.repetition_penalty, params.presence_penalty, params.frequency_penalty
        )
        assert x.max() - x[token] < 1e-4 * row.std(), f"token {i}: expected {x.argmax()}, got {token}"
        if output.logprobs is not None:
            expected = row - np.log(np.exp(row - row.max()).sum()) - row.max()
            best = np.argsort(-row, kind="stable")[: params.logprobs]
            assert set(best) <= set(output.logprobs[i]) <= {*best, token}
            for id, value in output.logprobs[i].items():
                assert value == pytest.approx(expected[id], abs=1e-3)


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_and_bias_decide_as_the_reference_says(llm: LLM, tiny: Path, name: str) -> None:
    params = PENALTIES[name]
    plain = llm.generate(PROMPTS, GREEDY)
    outputs = llm.generate(PROMPTS, params)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        expect_penalized(tiny, prompt, output, params)
    assert outputs != plain, "the penalty changed nothing"


def test_requests_with_and_without_penalties_share_a_step(llm: LLM) -> None:
    each = [*PENALTIES.values(), GREEDY]
    alone = [llm.generate([PROMPTS[0]], params)[0] for params in each]
    assert llm.generate([PROMPTS[0]] * len(each), each) == alone


def test_logprobs_stand_beside_every_token(llm: LLM, tiny: Path) -> None:
    for count in (0, 5):
        params = SamplingParams(temperature=1.5, seed=3, max_tokens=12, ignore_eos=True, logprobs=count)
        output = llm.generate([PROMPTS[1]], params)[0]
        assert output.logprobs is not None
        assert len(output.logprobs) == len(output.token_ids) == 12
        for token, found in zip(output.token_ids, output.logprobs, strict=True):
            assert token in found
            assert count <= len(found) <= count + 1
            assert list(found.values())[:count] == sorted(found.values(), reverse=True)[:count]
    assert llm.generate([PROMPTS[1]], GREEDY)[0].logprobs is None


def test_min_p_of_1_is_greedy_at_any_temperature(llm: LLM) -> None:
    params = SamplingParams(temperature=2.0, seed=5, max_tokens=12, ignore_eos=True, min_p=1.0)
    assert llm.generate(PROMPTS, params) == llm.generate(PROMPTS, GREEDY)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"min_p": -0.1}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty"),
        ({"logit_bias": {1: 101.0}}, "logit_bias"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
    ],
)
def test_sampling_out_of_range_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        SamplingParams(**options)


def test_a_bias_of_an_id_that_the_model_lacks_is_refused(llm: LLM) -> None:
    with pytest.raises(InvalidInput, match=r"logit_bias: .*100000"):
        llm.generate([PROMPTS[0]], SamplingParams(logit_bias={100_000: 1.0}))


def test_the_progress_bar_changes_nothing(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert llm.generate(PROMPTS, GREEDY, progress=True) == llm.generate(PROMPTS, GREEDY)
    captured = capsys.readouterr()
    assert "3/3" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("prompt", "named"), [([1, 2, 100_000], "100000"), ([1] * 3000, "3000"), ([], "empty"), ([-1], "-1")]
)
def test_a_prompt_that_cannot_run_is_refused_and_the_next_runs(llm: LLM, prompt: list[int], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        llm.generate([PROMPTS[0], prompt], GREEDY)
    assert llm.generate([PROMPTS[0]], GREEDY)[0].finish_reason == "length"


def test_params_that_do_not_match_the_prompts_are_refused(llm: LLM) -> None:
    with pytest.raises(InvalidInput, match="expected 3"):
        llm.generate(PROMPTS, [GREEDY])


def test_a_closed_llm_says_so(tiny: Path) -> None:
    with LLM(str(tiny), threads=1) as llm:
        pass
    with pytest.raises(Closed):
        llm.generate([[1]], GREEDY)
    llm.close()


def test_an_unknown_option_is_named_with_the_known_ones(tiny: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'kv_block_size'.*kvcache_block_size"):
        LLM(str(tiny), kv_block_size=16)
    with pytest.raises(InvalidInput, match="'colour'"):
        LLM(str(tiny), disaggregated=True, decode={"colour": 1})


def test_without_a_tokenizer_ids_go_and_text_is_refused(tiny: Path) -> None:
    with LLM(str(tiny), threads=1, skip_tokenizer_init=True) as llm:
        output = llm.generate([PROMPTS[0]], GREEDY)[0]
        assert len(output.token_ids) == 12
        assert output.text == ""
        assert output.finish_reason == "length"
        with pytest.raises(InvalidInput, match="tokenizer"):
            llm.generate("hello", GREEDY)
        with pytest.raises(InvalidInput, match="tokenizer"):
            llm.generate([[1]], SamplingParams(stop="x"))


def test_prefill_and_decode_apart_give_the_same_tokens(llm: LLM, tiny: Path) -> None:
    alone = llm.generate(PROMPTS, GREEDY)
    with LLM(str(tiny), disaggregated=True, kvcache_block_size=16, local_prefill_tokens=0) as pair:
        assert pair.max_model_len == llm.max_model_len
        assert pair.generate(PROMPTS, GREEDY) == alone
        for params in PENALTIES.values():  # over the first token, which the prefill engine samples, too
            assert pair.generate(PROMPTS, params) == llm.generate(PROMPTS, params)
        with pytest.raises(InvalidInput, match="100000"):
            pair.generate([[100_000]], GREEDY)
        assert pair.generate([PROMPTS[1]], GREEDY, progress=True) == [alone[1]]
        children = psutil.Process().children(recursive=True)
        assert len(children) == 2
    assert not [child for child in children if child.is_running()]


def test_a_child_that_cannot_start_is_an_error_and_leaves_no_process(tiny: Path, tmp_path: Path) -> None:
    before = psutil.Process().children(recursive=True)
    with pytest.raises(InvalidInput, match="none"):
        LLM(str(tmp_path / "none"), disaggregated=True)
    with pytest.raises(PeerLost, match="decode engine"):
        LLM(str(tiny), disaggregated=True, decode={"max_model_len": 1 << 20})
    assert psutil.Process().children(recursive=True) == before


def test_a_child_that_is_killed_is_an_error_at_once(tiny: Path) -> None:
    with LLM(str(tiny), disaggregated=True, kvcache_block_size=16) as pair:
        for child in psutil.Process().children():
            child.kill()
        killed = time.monotonic()
        with pytest.raises(PeerLost, match="engine"):
            pair.generate(PROMPTS, GREEDY)
        assert time.monotonic() - killed < 5
