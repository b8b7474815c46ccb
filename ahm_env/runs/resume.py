"""How a run is begun, or gone on with: what the user asks for must agree with what is there."""

from collections.abc import Mapping
from typing import Any

from ahm_env.errors import RunError
from ahm_env.images import ImageSet
from ahm_env.runs.directory import Directory, S


def agree(directory: Directory[S], settings: S | None, given: Mapping[str, Any]) -> S:
    """The settings to run with: those of a new run, or, where `settings` is None, those of the run in the directory.

    Raises:
        RunError: The directory and the wish do not go together.
    """
    existing, path = directory.settings(), directory.path
    if settings is None:
        if existing is None:
            raise RunError(f"{path}: holds no run to resume; check --out, or leave out --resume to start one")
        if others := existing.differences(given):
            flags = ", ".join(map(flag_of, others))
            raise RunError(f"{path}: this run has other settings than {flags}; leave them out to resume it")
        return existing
    if existing == settings:
        raise RunError(f"{path}: holds this run already; add --resume to go on, or choose another --out")
    if existing is not None:
        flags = ", ".join(map(flag_of, existing.differences(settings.as_dict())))
        raise RunError(f"{path}: holds a run with another {flags}; choose another --out")
    if directory.occupied:
        raise RunError(f"{path}: is not empty and holds no run; choose another --out")
    return settings


def flag_of(name: str) -> str:
    """The option by which a setting is given."""
    return f"--{name.replace('_', '-')}"


def begin(directory: Directory[S], settings: S, images: ImageSet, others: ImageSet | None = None) -> bool:
    """Begin a run in its directory; of one that has begun, check that its images, and others it uses, are the same.

    Returns:
        Whether it begins now.

    Raises:
        RunError: The images have changed.
    """
    key = "+".join(some.content_key for some in (images, others) if some is not None)
    if directory.settings() is None:
        facts = {"count": len(images), "channels": images.channels, "skipped": images.skipped}
        directory.begin(settings, {**facts, "content_key": key})
        return True
    if directory.content_key() != key:
        sources = " or ".join(some.source for some in (images, others) if some is not None)
        raise RunError(
            f"{directory.path}: the images of {sources} have changed since this run began; bring them back, or "
            f"choose another --out"
        )
    return False
