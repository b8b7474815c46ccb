"""A directory that says what made it: others are refused, and so is a second process."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from ahm_env.errors import RunError, SettingsError
from ahm_env.files import check_name, occupied, write_text

# Files by which directories of ours say what they hold, and those of results that runs and experiments read again
HOLDS = ("config.json", "agent.json", "experiment.json", "predictions.json", "annotation.json")
RESULTS = ("test.json", "mask_evaluation.json")


class OwnedDirectory:
    """A directory with a JSON file that says what made it, held by one process. Use as a context manager.

    Args:
        path: The directory; made where it does not exist.
        file: Name of the JSON file in it.
        holds: What it holds, such as `predictions`.

    Attributes:
        instead: What a person can do where it holds something else: of a directory to write, to choose another.

    Raises:
        RunError: It holds something else, its file is damaged, or another process works in it.
        OSError: It cannot be written.
    """

    instead = "choose another --out"

    def __init__(self, path: Path, file: str, holds: str) -> None:
        self.path, self.file, self.holds = path, path / file, holds
        self._lock = FileLock(path / ".lock")

    def __enter__(self) -> Self:
        self.read()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            cause = "another process is working in it; wait for it"
            raise RunError(f"{self.path}: {cause}, or choose another --out") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def read(self) -> dict[str, Any] | None:
        """Read what made this directory; return None if nothing has yet.

        Raises:
            RunError: It holds something else, or the file is damaged.
        """
        if not self.file.is_file():
            if occupied(self.path):
                kind = self.holds.split()[-1]
                raise RunError(f"{self.path}: is not an empty directory and holds no {kind}; {self.instead}")
            return None
        try:
            return dict(json.loads(self.file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise RunError(f"{self.file}: damaged ({error}); restore it, or {self.instead}") from None

    def write(self, made_by: Mapping[str, Any]) -> None:
        """Say what makes it."""
        write_text(self.file, json.dumps(dict(made_by), indent=2) + "\n")

    def refuse_others(
        self, before: Mapping[str, Any], now: Mapping[str, Any], name: Callable[[str], str] = str
    ) -> None:
        """Refuse to go on with other settings.

        Args:
            before: Settings that made it.
            now: Those of this command.
            name: Names a setting as the user does.

        Raises:
            RunError: Some differ.
        """
        odd = sorted(name(key) for key in {*before, *now} if before.get(key) != now.get(key))
        if odd:
            raise RunError(
                f"{self.path}: holds {self.holds} with another {', '.join(odd)}; give the same, or choose another --out"
            )

    def check(self, settings: Mapping[str, Any]) -> bool:
        """Refuse to go on with other settings than those that made it; returns whether something has made it.

        Raises:
            RunError: They differ.
        """
        before = self.read()
        if before is not None:
            self.refuse_others(before, settings)
        return before is not None

    def write_or_check(self, settings: Mapping[str, Any]) -> None:
        """Say that these settings make it; where something has made it before, they must be the same.

        Raises:
            RunError: They differ.
        """
        if not self.check(settings):
            self.write(settings)


def check_json(path: Path, flag: str = "--out") -> None:
    """Refuse a name for a JSON file to write that a run or an experiment has for a file of its own.

    Raises:
        SettingsError: It is such a name in such a directory, or does not end in .json.
    """
    check_name(path, ".json", flag)
    if path.name in {*HOLDS, *RESULTS} and any((path.parent / name).exists() for name in HOLDS):
        raise SettingsError(
            f"{flag} {path} belongs to the run or experiment there, and would be lost; give another name"
        )
