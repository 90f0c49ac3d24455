"""Ten thousand strings on which tokenizers disagree: made here, the same on every machine and every Python.

A pre-tokenizer splits a text by rules on classes of characters (letters, digits, spaces, punctuation), so each kind
below walks one class through its combinations. A kind is ordinary when a file that gets it wrong is a broken file:
people type such text. In the other kinds llama.cpp differs from Hugging Face for every file of some models, because
it does not normalise to NFC and has Unicode tables of its own.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pipeline.check.alphabets import (
    BIDI,
    BLANKS,
    BROKEN,
    CHINESE,
    CODE,
    DIGITS,
    EMOJI,
    FOREIGN_DIGITS,
    HANGUL,
    INDIC,
    JOINED,
    KANA,
    MARKS,
    OPERATORS,
    PRIVATE,
    PUNCTUATION,
    RIGHT_TO_LEFT,
    SOUTH_EAST,
    SPACES,
    SUFFIXES,
    SYMBOLS,
    TYPOGRAPHY,
    WORDS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LONGEST = 4000


class Sample(NamedTuple):
    text: str
    kind: str

    @property
    def ordinary(self) -> bool:
        """Whether people type such text, so that every file must get it right."""
        return KINDS[self.kind].ordinary

    @property
    def long(self) -> bool:
        """Whether it may take a tokenizer that is not linear out of its depth."""
        return len(self.text) > 512


@dataclass(frozen=True)
class Kind:
    ordinary: bool
    count: int
    make: Callable[[_Dice], str]


class _Dice:
    """A pseudo-random generator of our own, since Python's may draw otherwise in another version.

    xorshift64*, Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016.
    """

    def __init__(self, seed: int) -> None:
        self.state = seed

    def below(self, n: int) -> int:
        x = self.state
        x ^= x >> 12
        x ^= (x << 25) & 0xFFFF_FFFF_FFFF_FFFF
        x ^= x >> 27
        self.state = x
        return ((x * 0x2545F4914F6CDD1D & 0xFFFF_FFFF_FFFF_FFFF) >> 33) % n

    def pick(self, of: Sequence[str]) -> str:
        return of[self.below(len(of))]

    def run(self, of: Sequence[str], most: int) -> str:
        """Return 1 to `most` picks in a row."""
        return "".join(self.pick(of) for _ in range(1 + self.below(most)))

    def split(self, of: str, most: int) -> str:
        """Return 1 to `most` words of a text."""
        words = of.split()
        return " ".join(self.pick(words) for _ in range(1 + self.below(most)))


def _cased(dice: _Dice, word: str) -> str:
    return (word, word, word.capitalize(), word.upper(), word.swapcase(), word[:2] + word[2:].title())[dice.below(6)]


def _words(dice: _Dice) -> str:
    words = [_cased(dice, dice.pick(WORDS[dice.pick(tuple(WORDS))].split())) for _ in range(1 + dice.below(5))]
    if dice.below(3) == 0:
        words[-1] += dice.pick(SUFFIXES)
    return dice.pick(("", "", " ")) + dice.pick((" ", " ", " ", "-", ", ", "'", "_", "")).join(words)


def _digits(dice: _Dice) -> str:
    run = dice.run(DIGITS, 20)
    shape = dice.below(8)
    if shape == 0:
        return f"{dice.run(DIGITS, 4)}-{dice.run(DIGITS, 2)}-{dice.run(DIGITS, 2)}T{dice.run(DIGITS, 2)}:{run[:2]}Z"
    if shape == 1:
        return dice.pick((",", ".", " ", "_", "'")).join(dice.run(DIGITS, 3) for _ in range(2 + dice.below(4)))
    if shape == 2:
        return (
            dice.pick(("$", "€", "-", "+", "0x", "v", "#", "№ ", "("))
            + run
            + dice.pick(("%", "km", "th", "e-3", ")", ".", ""))
        )
    if shape == 3:
        return dice.pick(("in ", "a", "x", "Room ", "年", "第")) + run + dice.pick((" b", "b", "/", ":", "月", ", "))
    return dice.pick(("", "", " ", "  ", "\n")) + run


def _blanks(dice: _Dice) -> str:
    shape = dice.below(5)
    if shape == 0:
        return dice.pick((" ", "\t", "\n")) * (1 + dice.below(40))
    if shape == 1:
        return dice.run(BLANKS, 6)
    words = [dice.pick(WORDS["English"].split()), dice.pick((dice.pick(PUNCTUATION), dice.run(DIGITS, 4), "word", ""))]
    return dice.pick(("", dice.run(BLANKS, 3))) + dice.run(BLANKS, 4).join(words) + dice.pick(("", dice.run(BLANKS, 3)))


def _punctuation(dice: _Dice) -> str:
    run = dice.pick(PUNCTUATION) * (1 + dice.below(12)) if dice.below(3) == 0 else dice.run(PUNCTUATION, 10)
    if dice.below(4) == 0:
        run = dice.run(TYPOGRAPHY, 5)
    return (
        dice.pick(("", "", " ", "\n", "a", "word", "9"))
        + run
        + dice.pick(("", "", " ", "\n", "a", " word", "9", "\n\n"))
    )


def _code(dice: _Dice) -> str:
    if dice.below(2) == 0:
        name = dice.pick(("x", "fooBar", "HTTPServer2", "snake_case", "__init__", "i18n", "kCamel", "CONST_1"))
        used = name + dice.pick(("", " ")) + dice.pick(OPERATORS) + dice.pick(("", " ")) + dice.run(DIGITS, 3)
        return dice.pick(BLANKS) + used + dice.pick((";", ",\n", ")\n}\n", ""))
    code = dice.pick(CODE)
    begin = dice.below(len(code) // 2)
    piece = code[begin : begin + 8 + dice.below(len(code))]
    indent = dice.pick(("", "  ", "    ", "\t", "\t\t", "        "))
    return indent + piece.replace("\n", f"\n{indent}")


def _cjk(dice: _Dice) -> str:
    scripts = (CHINESE, CHINESE, KANA, HANGUL)
    parts = [dice.run(dice.pick(scripts), 8) for _ in range(1 + dice.below(3))]
    return dice.pick(("", "", " ", "、", "。", "apple", "3")).join(parts) + dice.pick(("", "", "。", "！", " ok", "12"))


def _emoji(dice: _Dice) -> str:
    return dice.pick(("", " ", "ok", "ok ", "!")) + dice.run(EMOJI, 4) + dice.pick(("", " ", "!", " yes", "\n", "7"))


def _right_to_left(dice: _Dice) -> str:
    return dice.pick(("", " ")) + dice.split(RIGHT_TO_LEFT, 4) + dice.pick(("", "؟", "،", "!", " 12", " ok"))


def _scripts(dice: _Dice) -> str:
    return dice.pick(("", " ")) + dice.split(dice.pick((INDIC, SOUTH_EAST)), 4) + dice.pick(("", "।", "ฯ", "?", " 7"))


def _joined(dice: _Dice) -> str:
    return dice.pick(("", "a", " ")) + dice.run((*JOINED, *EMOJI, "\u200d", "\ufe0f", "\ufe0e", "\u20e3"), 4)


def _foreign_digits(dice: _Dice) -> str:
    return (
        dice.pick(("", " ", "a", "7")) + dice.run(dice.pick(FOREIGN_DIGITS), 8) + dice.pick(("", " b", "0", "٪", "."))
    )


def _spaces(dice: _Dice) -> str:
    space = dice.run(SPACES, 3)
    return dice.pick(("", "a", "word", " ", "\n")) + space + dice.pick(("", "b", "word", " ", "  ", "\n", "7", "!"))


def _marks(dice: _Dice) -> str:
    shape = dice.below(3)
    if shape == 0:
        return unicodedata.normalize("NFD", dice.split(WORDS[dice.pick(("French", "Vietnamese", "Czech", "Greek"))], 3))
    if shape == 1:
        return unicodedata.normalize("NFD", dice.run(dice.pick((HANGUL, KANA)), 4))
    return (
        dice.pick(("a", "e", "Z", "כ", "س", "か", " ", "1", "")) + dice.run(MARKS, 6) + dice.pick(("", "b", " b", "."))
    )


def _symbols(dice: _Dice) -> str:
    return dice.pick(("", "x", " ")) + dice.run(dice.pick((SYMBOLS, SYMBOLS, PRIVATE)), 6) + dice.pick(("", " y", "2"))


def _directions(dice: _Dice) -> str:
    words = [dice.pick(RIGHT_TO_LEFT.split()), dice.pick(BIDI), dice.pick(("abc", "12", " ", "")), dice.pick(BIDI)]
    pointed = dice.run("שלוםבתודה", 3) + dice.run("\u05b0\u05b8\u05bc\u05c1", 2) + dice.run("محمد\u064b\u0651", 4)
    return "".join(words) if dice.below(2) else pointed


def _broken(dice: _Dice) -> str:
    return "".join(dice.pick((dice.pick(BROKEN), "word", " ", "é", "7")) for _ in range(1 + dice.below(5)))


def _long(dice: _Dice) -> str:
    seed = dice.pick(
        ("a", "ab", " ", "\n", "0", "!", "=-", "é", "海", "ひらがな", "😀", "\t ", "Lorem", dice.split(HANGUL, 1))
    )
    length = 600 + dice.below(LONGEST - 600)
    return (
        (seed * (length // len(seed) + 1))[:length] if dice.below(2) else dice.run((*seed, "x", "y", "z"), 1) * length
    )


def _mixed(dice: _Dice) -> str:
    makers = [kind.make for name, kind in KINDS.items() if name not in ("long", "mixed")]
    return "".join(makers[dice.below(len(makers))](dice) for _ in range(2 + dice.below(3)))


KINDS = {
    "words": Kind(ordinary=True, count=1500, make=_words),
    "digits": Kind(ordinary=True, count=1000, make=_digits),
    "whitespace": Kind(ordinary=True, count=1000, make=_blanks),
    "punctuation": Kind(ordinary=True, count=1000, make=_punctuation),
    "code": Kind(ordinary=True, count=1000, make=_code),
    "CJK": Kind(ordinary=True, count=800, make=_cjk),
    "emoji": Kind(ordinary=True, count=500, make=_emoji),
    "right to left": Kind(ordinary=True, count=400, make=_right_to_left),
    "other scripts": Kind(ordinary=True, count=400, make=_scripts),
    "emoji sequences": Kind(ordinary=False, count=500, make=_joined),
    "other digits": Kind(ordinary=False, count=400, make=_foreign_digits),
    "other spaces": Kind(ordinary=False, count=500, make=_spaces),
    "combining marks": Kind(ordinary=False, count=500, make=_marks),
    "bidirectional": Kind(ordinary=False, count=400, make=_directions),
    "symbols": Kind(ordinary=False, count=500, make=_symbols),
    "control characters": Kind(ordinary=False, count=400, make=_broken),
    "very long": Kind(ordinary=False, count=24, make=_long),
    "mixed": Kind(ordinary=False, count=600, make=_mixed),
}
SPECIAL, NEAR = "special tokens", "almost special tokens"
KINDS |= {SPECIAL: Kind(ordinary=False, count=0, make=_words), NEAR: Kind(ordinary=False, count=0, make=_words)}


def strings(special: Sequence[str] = ()) -> list[Sample]:
    """Return at least 10,000 distinct texts, and a few for each of the model's own `special` tokens."""
    samples: dict[str, Sample] = {}
    for seed, (name, kind) in enumerate(KINDS.items(), start=1):
        dice, wanted = _Dice(seed * 0x9E3779B97F4A7C15 % (1 << 64)), len(samples) + kind.count
        for _ in range(20 * kind.count):
            if len(samples) == wanted:
                break
            text = kind.make(dice)
            samples.setdefault(text, Sample(text, name))
    for token in special:
        for text in (token, f"a{token}b", f"a {token} b", f"{token}{token}", f"\n{token}\n", f"say {token}!"):
            samples.setdefault(text, Sample(text, SPECIAL))
        for text in (token[:-1], token[1:], f"{token[0]} {token[1:]}", token.swapcase(), token[:-1] + " " + token[-1]):
            if text and text not in special:
                samples.setdefault(text, Sample(text, NEAR))
    samples.pop("", None)
    return list(samples.values())
