"""Privacy: no name, number or path that tells who somebody is, is shown or written down; pseudonyms stand for them.

Runs write paths down, and archives name folders after patients. What must not stand in a path comes from the headers of
the images, and is kept as digests, made with the secret of this computer, so that images from the cache are as safe as
those just read.
"""

import hashlib
import os
import re
import secrets
import shlex
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from ahm_env.errors import ImageError, SettingsError
from ahm_env.files import cache_root, explained

SALT = "patients.salt"
SALT_BYTES = 32
DIGITS = 16  # 64 bits: no two of a million files have the same
# What is shorter stands in a path by chance; what is long, or has digits, does not, even within another word.
SHORTEST, LONG = 3, 8
# Instead of a name.
NOBODY = ("anon", "anonymised", "anonymized", "anonymous", "none", "patient", "phantom", "study", "test", "unknown")
# In the header of a DICOM file.
NAMES = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthName",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
)
NUMBERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "InstitutionName")
DATE = "PatientBirthDate"

_WORD = re.compile(r"[^\W_]+")


def pseudonym(identifier: str) -> str:
    """Hex digits that stand for a patient's number, a name or a path wherever something is shown or written.

    The same on this computer for the same text; nobody finds the text from it without the salt, a secret of 32 random
    bytes in the cache directory.

    Raises:
        SettingsError: The cache directory, where the salt is kept, cannot be written.
    """
    text = identifier.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, key=_salt(cache_root(None))).hexdigest()[:DIGITS]


@cache
def _salt(root: Path) -> bytes:
    path = root / SALT
    if not path.is_file():
        # Written under another name first: another process finds the whole salt or none.
        own = root / f".{SALT}.{secrets.token_hex(4)}"
        with explained(root):
            descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(SALT_BYTES))
            with suppress(FileExistsError):
                os.link(own, path)
            own.unlink()
    return path.read_bytes()


def hint(source: Path, name: str) -> str:
    """How to find the file of a source that a pseudonym stands for."""
    return f"`ahm data find {shlex.quote(str(source))} {name}` tells where it is"


@contextmanager
def unnamed(where: str) -> Iterator[None]:
    """Take the path out of the operating system's errors: it may hold a patient's name.

    Args:
        where: What to name instead.

    Raises:
        ImageError: A file is gone, or not permitted.
        OSError: Another error, of the disk or the network: no fault of that file.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise ImageError(f"cannot be read ({error.strerror}); check that it is there and permitted") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, where) from None


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


def identity(header: Any) -> frozenset[str]:
    """Words in a DICOM header that tell who somebody is: names, also joined, numbers, birth dates, institutions."""
    found = [word for keyword in NAMES for name in _values(header, keyword) for word in _of_name(name)]
    found += ["".join(words(number)) for keyword in NUMBERS for number in _values(header, keyword)]
    for date in _values(header, DATE):
        year, month, day = date[:4], date[4:6], date[6:8]
        found += [year + month + day, day + month + year, month + day + year]
    return frozenset(found) - {""}


def _of_name(name: str) -> Iterator[str]:
    """Family^given^middle^prefix^suffix, and again after = in other scripts."""
    for written in name.split("="):
        parts = ["".join(words(part)) for part in written.split("^")]
        yield from parts
        for part in written.split("^"):
            # A number in the place of a name, such as TCGA-02-0003, is one only whole.
            yield from (word for word in words(part) if not any(map(str.isdigit, part)))
        if len(parts) > 1 and parts[0] and parts[1]:
            family, given = parts[:2]
            yield from (family + given, given + family, family + given[0], given[0] + family)


def _values(header: Any, keyword: str) -> Iterator[str]:
    value = header.get(keyword)
    several = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    yield from (str(one) for one in several if one is not None)
