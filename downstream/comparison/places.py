"""Where that lies which a trial starts from, or is evaluated on: elsewhere once the experiment has moved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ahm_env.runs.owned_directory import OwnedDirectory


def starting_from(start: str | None, setting: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Name, in the description of a run that has begun, the place of what it starts from.

    Args:
        start: The place.
        setting: Name of the setting that has it.
        config: What `config.json` holds.
    """
    return {**config, "settings": {**config["settings"], setting: start}}


def begun(path: Path, start: str | None, setting: str) -> bool:
    """Whether a trial has begun in this directory; if so, its description names the present place of its start.

    Raises:
        RunError: It holds something else, or its description is damaged.
    """
    directory = OwnedDirectory(path, "config.json", "a run")
    config = directory.read()
    if config is None:
        return False
    settings = config.get("settings")
    if isinstance(settings, dict) and settings.get(setting) != start:  # what is damaged is told where it is read
        directory.write(starting_from(start, setting, config))
    return True
