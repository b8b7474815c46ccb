"""What comes of a source's samples."""

from ahm_env.errors import ImageError
from ahm_env.images.source import Sample, Source


def outcomes(source: Source) -> list[Sample | str | None]:
    """Each sample, None for one that shows nothing, or the text of its error, which has one line."""
    found: list[Sample | str | None] = []
    index = source.index()
    for load in index.samples:
        try:
            found.append(load())
        except ImageError as error:
            found.append(str(error))
    assert not any(isinstance(each, str) and "\n" in each for each in found)
    assert len(found) == index.count
    return found
