"""Names of split folders, as published data sets have them, and the natural order of names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

SPLITS = ("train", "val", "test")

_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_OTHER_WORDS = frozenset(
    (
        *("x", "seg", "set", "sets", "data", "dataset", "datasets", "split", "file", "files"),
        *("image", "images", "img", "imgs", "photo", "photos", "sample", "samples"),
    )
)
"""Words that do not change the meaning of a split's word: training_set, X_train, seg_test, train_images."""
_PLAIN = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
_TOKEN = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+")
_COMPOUND = re.compile(rf"({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})(?:set|data|images?|imgs?)")


class Named(NamedTuple):
    """A folder name with the word of a split, and its other words: (test, ()) for test_set, (test, (cats,))."""

    split: str
    stem: tuple[str, ...]


def named_split(folder: str) -> Named | None:
    """The split that a folder name begins or ends with; None for another name. Years and counts are ignored."""
    tokens = [word.casefold() for word in _TOKEN.findall(folder)]
    tokens = [match[1] if (match := _COMPOUND.fullmatch(word)) else word for word in tokens]
    words = [word for word in tokens if not word.isdecimal() and word not in _OTHER_WORDS]
    at = [i for i, word in enumerate(words) if word in _SPLIT_OF]
    if len(at) != 1 or at[0] not in (0, len(words) - 1):
        return None
    return Named(_SPLIT_OF[words[at[0]]], tuple(words[: at[0]] + words[at[0] + 1 :]))


def split_of(folder: str) -> str | None:
    """The split of a folder whose name has no other words, such as training_set, X_train, val2017; else None."""
    found = named_split(folder)
    return found.split if found is not None and not found.stem else None


def is_plain(folder: str) -> bool:
    """Whether a name is a word of a split and nothing else, which needs no remark."""
    return folder.casefold() in _PLAIN


def words_of(folder: str) -> tuple[str, ...]:
    """The words of a name in lower case, as in the stem of a ``Named``."""
    return tuple(word for token in _TOKEN.findall(folder) if (word := token.casefold()) not in _OTHER_WORDS)


def taken_note(roles: Mapping[str, str]) -> str:
    """The note on which folders are which splits; "" if all names are plain."""
    if all(map(is_plain, roles)):
        return ""
    ordered = sorted(roles, key=lambda folder: (SPLITS.index(roles[folder]), folder))
    return "split folders: " + ", ".join(f"{folder} as {roles[folder]}" for folder in ordered)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key with numbers in numerical order: 2 before 10, class2 before class10."""
    parts = re.findall(r"\d+|\D+", name)
    return (*((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts), (-1, 0, name))


def natural_order(names: Iterable[str]) -> list[str]:
    """Names in natural order; negative whole numbers before positive ones."""
    found = list(names)
    if all(re.fullmatch(r"-?\d+", name) for name in found):
        return sorted(found, key=lambda name: (int(name), name))
    return sorted(found, key=natural_key)
