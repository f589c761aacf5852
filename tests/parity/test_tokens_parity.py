"""Token ids against transformers' CLIPTokenizer made of the same vocabulary and merges."""

from __future__ import annotations

import random

import pytest

from model.tokenizer import Tokenizer

WRITTEN = [
    "",
    " ",
    "\t\n  \r\n",
    "a photo of a cat",
    "An IHC image of colon: epithelium (DAB+), stroma; 40x, 0.25 µm/px",
    "Don't can't we've I'm they'll she'd it's 'tis rock'n'roll ''' 's's",
    "O’Brien’s “quoted” — dash… ½ ² Ⅳ",
    "0 1 12 123 1234567890 3.14 1e-5 -7 +8 ٣٤ 四",
    "MiXeD CaSe WORDS ÄÖÜ ß ẞ İstanbul ıŞ ΟΔΥΣΣΕΥΣ Σ ΑΣ ǅ ﬁne",
    "cafe\u0301 café A\u030a Å e\u0301\u0323 \u1e69 \u0073\u0323\u0307",
    "hello\u00a0world\u2003em\u2009thin\u200bzero\u3000wide\u0085next\x1cfs\x0bvt",
    "🙂 👩‍🔬🔬 🇩🇪🇺🇸 👍🏽 ❤️ a🙂b",
    "日本語のテキスト 中文字符 한국어 العربية עברית हिन्दी ไทย Русский Ελληνικά",
    "</w> a</w> </w></w> <w> x</w>y",
    "<|startoftext|>",
    "<|endoftext|>",
    "a <|endoftext|> b<|startoftext|>c <|endoftext|><|endoftext|>",
    "<|EndOfText|> <|STARTOFTEXT|>x <|endoftext| > <|endof text|>",
    "http://example.org/a?b=c&d=%20#frag user@example.com C:\\dir\\file.txt",
    "snake_case kebab-case camelCase __init__ a.b.c 1,000,000.00$ €5 £6 ¥7",
    "!!! ??? ... --- ___ ~~~ ``` ((( ))) [[]] {{}} <<>> @#$%^&*",
    "\u0000\u0001\u007f\u00ad\ufeff\ufffd\ue000",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "a" * 300,
    "ab " * 120,
    "!" * 100,
    "1" * 90,
    "x" * 74 + " y" * 74,
]
ALPHABET = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789     \t\n'''\"\"!?.,;:-_()<>|/\\@#$%&*+=~^`"
    "äöüßÄÖÜéèêñçåøæœıİşΣσςΩжЖщЩяאבגدهو日本語中文한글ไทยहि٣४½²Ⅳ🙂🔬❤️👍🏽\u0301\u0308\u0323\u200b\u200d\u00a0\u2003\u3000\ufe0f"
)


@pytest.fixture(scope="module")
def pair():
    from transformers import CLIPTokenizer

    ours = Tokenizer()
    return ours, CLIPTokenizer(vocab=ours.vocabulary, merges=ours.merges, model_max_length=77)


def random_texts(count: int) -> list[str]:
    draw = random.Random(0)
    texts = []
    for _ in range(count):
        words = ["".join(draw.choices(ALPHABET, k=draw.randint(1, 12))) for _ in range(draw.randint(1, 20))]
        texts.append(draw.choice(["", " ", "  "]).join(words))
    return texts


def assigned_characters() -> list[str]:
    """Every 41st code point up to the astral planes that the last versions of Unicode have not moved, in a context."""
    import unicodedata

    points = [point for point in range(1, 0x20000, 41) if unicodedata.category(chr(point)) not in ("Cn", "Cs")]
    return [f"a{chr(point)}b {chr(point)}{chr(point)}" for point in points]


@pytest.mark.parametrize("text", WRITTEN)
def test_written_texts_have_their_tokens(text, pair):
    ours, theirs = pair
    expected = theirs([text], padding="max_length", max_length=77, truncation=True)["input_ids"]
    assert ours([text]).tolist() == expected
    assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


def test_random_texts_have_their_tokens(pair):
    ours, theirs = pair
    texts = random_texts(400)
    expected = theirs(texts, padding="max_length", max_length=77, truncation=True)["input_ids"]
    different = [text for text, a, b in zip(texts, ours(texts).tolist(), expected, strict=True) if a != b]
    assert not different


def test_characters_of_every_kind_have_their_tokens(pair):
    ours, theirs = pair
    texts = assigned_characters()
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    different = [text for text, row in zip(texts, expected, strict=True) if ours.encode(text) != row]
    assert len(texts) > 1500
    assert not different
