"""Whether a path tells whose images lie there: runs write paths down, and archives name folders after patients.

What must not stand in a path comes from the headers of the images. It is kept as digests, made with the secret of this
computer, so that images from the cache are as safe as those just read.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from ahm_env.errors import SettingsError
from ahm_env.images.dataset.patients import pseudonym

# What is shorter stands in a path by chance; what is long, or has digits, does not, even within another word.
SHORTEST, LONG = 3, 8
# Instead of a name.
NOBODY = ("anon", "anonymised", "anonymized", "anonymous", "none", "patient", "phantom", "study", "test", "unknown")

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """List the runs of letters and digits of a text, in the form in which they are compared."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def digests(found: Iterable[str]) -> frozenset[int]:
    """Numbers of 64 bits that stand for words, those left out that stand in any path."""
    return frozenset(
        int(pseudonym(f"identity {word}"), 16) for word in found if len(word) >= SHORTEST and word not in NOBODY
    )


def refuse_path(path: str, identities: frozenset[int]) -> None:
    """Refuse a path that tells whose images these are, because it would be written down.

    Args:
        path: The path as given, because it would be written down like that.
        identities: Digests of what the headers of the images hold.

    Raises:
        SettingsError: A part of the path is among them.
    """
    if part := part_that_tells(path, identities):
        raise SettingsError(
            f"part {part} of the path of these images holds a name, number, birth date or institution of their "
            f"headers, and runs write it down; rename that folder, or give one above it, or a link with another name"
        )


def part_that_tells(path: str, identities: frozenset[int]) -> int:
    """Which part of a path has such a word, or holds one that is no word by chance; 0 is none, 1 the first."""
    if not identities:
        return 0
    whole = Path(path)
    parts = whole.parts[1:] if whole.anchor else whole.parts
    return next((number for number, part in enumerate(parts, 1) if not identities.isdisjoint(_held(part))), 0)


def _held(part: str) -> frozenset[int]:
    found = words(part)
    return digests({*found, "".join(found), *_rare("".join(found))})


def _rare(whole: str) -> Iterator[str]:
    for start in range(len(whole)):
        for end in range(start + SHORTEST + 1, len(whole) + 1):
            piece = whole[start:end]
            if len(piece) >= LONG or any(map(str.isdigit, piece)):
                yield piece
