"""Conversations as token ids: the tokenizer's training, and the encoded training set."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import data
import jinja2
import numpy as np
import numpy.typing as npt
import tokenizers

from nano.demo.tokenizer import ADDED, CHAT_TEMPLATE, SPLIT


@cache
def template() -> jinja2.Template:
    environment = jinja2.Environment()
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    return environment.from_string(CHAT_TEMPLATE)


def render(conversation: data.Conversation) -> str:
    return template().render(**conversation)


def train_merges(conversations: Iterator[data.Conversation], count: int) -> list[tuple[str, str]]:
    """Learns `count` byte-pair merges from the conversations' text between special tokens."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + count, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    special = re.compile("|".join(map(re.escape, ADDED)))
    texts = (piece for one in conversations for piece in special.split(render(one)))
    tokenizer.train_from_iterator(texts, trainer)
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


@dataclass
class Corpus:
    """Encoded conversations, end to end. `answer[i]` is set where ids[i] is the assistant's to say."""

    ids: npt.NDArray[np.uint16]
    answer: npt.NDArray[np.bool_]
    ends: npt.NDArray[np.int64]
    """The end of each conversation in `ids`."""


def encode_chunk(task: tuple[str, int, int, int]) -> Corpus:
    tokenizer_file, seed, index, count = task
    tokenizer = tokenizers.Tokenizer.from_file(tokenizer_file)
    opening = tokenizer.encode("<|im_start|>assistant\n").ids
    end = tokenizer.token_to_id("<|im_end|>")
    ids: list[int] = []
    answer: list[bool] = []
    ends = []
    for conversation in data.chunk(seed, index, count):
        encoded = tokenizer.encode(render(conversation).removesuffix("\n")).ids
        speaking = False
        for i, token in enumerate(encoded):
            answer.append(speaking)
            if token == end:
                speaking = False
            elif token == opening[-1] and encoded[i + 1 - len(opening) : i + 1] == opening:
                speaking = True
        ids += encoded
        ends.append(len(ids))
    return Corpus(np.array(ids, np.uint16), np.array(answer, np.bool_), np.array(ends, np.int64))


def encode(tokenizer_file: Path, count: int, seed: int, processes: int) -> Corpus:
    """Encodes `count` generated conversations; the result does not depend on `processes`."""
    tasks = [
        (str(tokenizer_file), seed, index, min(data.CHUNK, count - start))
        for index, start in enumerate(range(0, count, data.CHUNK))
    ]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        parts = pool.map(encode_chunk, tasks, chunksize=1)
    starts = itertools.accumulate((len(part.ids) for part in parts[:-1]), initial=0)
    ends = [part.ends + start for part, start in zip(parts, starts, strict=True)]
    return Corpus(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.answer for part in parts]),
        np.concatenate(ends),
    )


@dataclass
class Batch:
    """Rows of whole conversations, padded: each [rows, width] int64 but `answer`, which is bool.

    `document` numbers a row's conversations (-1 is padding), `position` counts within each.
    """

    ids: npt.NDArray[Any]
    answer: npt.NDArray[Any]
    document: npt.NDArray[Any]
    position: npt.NDArray[Any]


def pack(lengths: npt.NDArray[np.int64], order: npt.NDArray[np.int64], width: int) -> list[list[int]]:
    """Fills rows of `width` tokens with whole conversations, in order."""
    rows: list[list[int]] = [[]]
    room = width
    for i in order.tolist():
        if lengths[i] > room:
            rows.append([])
            room = width
        rows[-1].append(i)
        room -= int(lengths[i])
    return rows


def build(corpus: Corpus, rows: list[list[int]], width: int) -> Batch:
    shape = (len(rows), width)
    batch = Batch(np.zeros(shape, np.int64), np.zeros(shape, np.bool_), np.full(shape, -1), np.zeros(shape, np.int64))
    for r, row in enumerate(rows):
        at = 0
        for number, i in enumerate(row):
            start, stop = (int(corpus.ends[i - 1]) if i else 0), int(corpus.ends[i])
            to = slice(at, at + stop - start)
            batch.ids[r, to] = corpus.ids[start:stop]
            batch.answer[r, to] = corpus.answer[start:stop]
            batch.document[r, to] = number
            batch.position[r, to] = np.arange(stop - start)
            at += stop - start
    return batch


def batches(corpus: Corpus, widths: tuple[int, ...], tokens: int, seed: int) -> Iterator[Batch]:
    """Endless shuffled batches of `tokens` tokens. A conversation goes to the least width that holds it; a batch has
    one width, so that short conversations are not padded to the longest."""
    rng = np.random.default_rng(seed)
    lengths = np.diff(corpus.ends, prepend=0)
    while True:
        epoch: list[tuple[int, list[list[int]]]] = []
        least = 0
        for width in widths:
            order = rng.permutation(np.flatnonzero((lengths > least) & (lengths <= width)))
            least = width
            rows = pack(lengths, order, width)
            size = max(1, tokens // width)
            epoch += [(width, rows[i : i + size]) for i in range(0, len(rows) - size + 1, size)]
        if not epoch:
            raise ValueError(f"batches: the corpus is smaller than one batch of {tokens} tokens")
        for i in rng.permutation(len(epoch)):
            width, rows = epoch[i]
            yield build(corpus, rows, width)
