"""The tokenizer by itself; a few hundred texts are compared with transformers in tests/parity."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.errors import PromptError
from model.tokenizer import Tokenizer

BOS, EOS = 49406, 49407
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


def test_vocabulary_is_the_published_one(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.vocabulary) == 49408
    assert sorted(tokenizer.vocabulary.values()) == list(range(49408))
    published = {"!": 0, "!</w>": 256, "a</w>": 320, "the</w>": 518, "<|startoftext|>": BOS, "<|endoftext|>": EOS}
    assert {name: tokenizer.vocabulary[name] for name in published} == published


def test_known_prompts_have_their_published_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert tokenizer.encode("A  photo\nof a CAT ") == [320, 1125, 539, 320, 2368]


def test_rows_start_end_and_are_padded_with_the_end_token(tokenizer: Tokenizer) -> None:
    rows = tokenizer(["a cat", ""])
    assert rows.shape == (2, 77)
    assert rows.dtype == torch.int64
    assert rows[0].tolist() == [BOS, 320, 2368] + [EOS] * 74
    assert rows[1].tolist() == [BOS] + [EOS] * 76


def test_long_text_is_cut_and_keeps_its_end_token(tokenizer: Tokenizer) -> None:
    row = tokenizer(["cat " * 200])[0].tolist()
    assert row == [BOS] + [2368] * 75 + [EOS]


def test_no_texts_give_no_rows(tokenizer: Tokenizer) -> None:
    assert tokenizer([]).shape == (0, 77)


def test_one_string_instead_of_several_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TypeError, match="sequence of strings"):
        tokenizer("a cat")


def test_text_that_is_no_unicode_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(PromptError, match="not valid Unicode"):
        tokenizer(["caf\udce9"])


def test_calls_do_not_influence_each_other(tokenizer: Tokenizer) -> None:
    first = tokenizer(["immunohistochemistry of the colon"])
    tokenizer(["something else"])
    assert torch.equal(tokenizer(["immunohistochemistry of the colon"]), first)


def test_import_reads_no_table() -> None:
    program = (
        "import gzip, sys, torch, model.config\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        "import model, model.tokenizer\n"
        "assert not [name for name in opened if name.endswith('.gz') or 'huggingface' in name], opened\n"
        "model.tokenizer.Tokenizer()\n"
        "assert [name for name in opened if name.endswith('.txt.gz')]"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_the_table_comes_with_its_licence() -> None:
    text = (ROOT / "model" / "data" / "LICENSE-CLIP-BPE.txt").read_text()
    assert "MIT License" in text
    assert "Copyright (c) 2021 OpenAI" in text
