"""CLIP's byte-pair tokenizer, by hand.

Text is brought to NFC, its white space collapsed and lower-cased, cut into words by a pattern, and each word's UTF-8
bytes are merged in the order of a learnt table (Sennrich et al., arXiv 1508.07909; table of OpenAI's CLIP, see
``data/LICENSE-CLIP-BPE.txt``). Ids are those of the tokenizer published with Stable Diffusion 1.x.
"""

from __future__ import annotations

import gzip
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import regex
import torch
from torch import Tensor

from model.errors import PromptError
from model.files import shown

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
END_OF_WORD = "</w>"
LENGTH = 77
VOCABULARY = 49408

_SPECIAL = r"(<\|startoftext\|>|<\|endoftext\|>)"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def byte_symbols() -> dict[int, str]:
    """A printable character for each byte, in the order of the vocabulary.

    A byte that Latin-1 prints stands for itself, the others for the characters from U+0100 up; the printable ones
    come first.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


def read_merges() -> list[tuple[str, str]]:
    """The merges of the published table, the most frequent first."""
    packed = (Path(__file__).parent / "data" / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()[1:]
    pairs = (line.split(" ") for line in lines)
    return [(left, right) for left, right in pairs]


def check_text(text: str) -> None:
    """Raise PromptError for text that holds what is not a Unicode character (a lone surrogate)."""
    if any(0xD800 <= ord(letter) < 0xE000 for letter in text):
        raise PromptError(f"prompt {shown(text)} is not valid Unicode: retype it")


class Tokenizer:
    """Prompts to token ids. Reads its table when it is made; holds nothing that a call changes."""

    def __init__(self) -> None:
        merges = read_merges()
        self._bytes = byte_symbols()
        names = [
            *self._bytes.values(),
            *(symbol + END_OF_WORD for symbol in self._bytes.values()),
            *(left + right for left, right in merges),
            BOS,
            EOS,
        ]
        self.merges = merges
        self.vocabulary: dict[str, int] = {name: index for index, name in enumerate(names)}
        self.bos = self.vocabulary[BOS]
        self.eos = self.vocabulary[EOS]
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Tokenize prompts.

        Args:
            texts: B strings, of any length.

        Returns:
            [B, 77] int64: start token, the text's tokens (the first 75 of them), end token, and end tokens as padding.

        Raises:
            TypeError: ``texts`` is one string instead of a sequence of strings.
            PromptError: a text is not valid Unicode.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a sequence of strings, not one string")
        rows = []
        for text in texts:
            ids = [self.bos, *self.encode(text)[: LENGTH - 2]]
            rows.append(ids + [self.eos] * (LENGTH - len(ids)))
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), LENGTH)

    def encode(self, text: str) -> list[int]:
        """The ids of one text of any length, without start and end token; a special token's name stands for it.

        Raises:
            PromptError: the text holds what is not a Unicode character (a lone surrogate).
        """
        check_text(text)
        ids: list[int] = []
        for part in regex.split(_SPECIAL, text):
            if part in (BOS, EOS):
                ids.append(self.vocabulary[part])
                continue
            for word in regex.findall(_WORDS, clean(part)):
                ids += [self.vocabulary[piece] for piece in self._merge(word)]
        return ids

    def position(self, text: str, word: str) -> int | None:
        """The place among the 77 tokens, or beyond them, of the first piece of ``word``, of letters alone, in ``text``.

        None where ``text`` has no such word, written alike and between what are no letters.
        """
        text, word = (unicodedata.normalize("NFC", each) for each in (text, word))
        for found in regex.finditer(rf"(?<![\p{{L}}\p{{M}}]){regex.escape(word)}(?![\p{{L}}\p{{M}}])", text):
            before, rest = self.encode(text[: found.start()]), self.encode(text[found.start() :])
            if before + rest == self.encode(text):
                return 1 + len(before)
        return None

    def _merge(self, word: str) -> list[str]:
        pieces = [self._bytes[byte] for byte in word.encode("utf-8")]
        pieces[-1] += END_OF_WORD
        while len(pieces) > 1:
            known = [pair for pair in pairwise(pieces) if pair in self._ranks]
            if not known:
                break
            left, right = min(known, key=self._ranks.__getitem__)
            merged: list[str] = []
            for piece in pieces:
                if merged and merged[-1] == left and piece == right:
                    merged[-1] = left + right
                else:
                    merged.append(piece)
            pieces = merged
        return pieces


def clean(text: str) -> str:
    """NFC, runs of white space to one space, lower case letter by letter (so that a final sigma stays a plain one)."""
    composed = regex.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
    return "".join(letter.lower() for letter in composed)
