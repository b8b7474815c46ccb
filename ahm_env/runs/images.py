"""The images of a run, read with progress in front of a person's eyes."""

from rich.console import Console

from ahm_env.console import ProgressBar, warn_left_out
from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.images.source import Source
from ahm_env.runs.settings import ImageSettings


def load(settings: ImageSettings, console: Console, source: Source | None = None) -> ImageSet:
    """Load the images of a run, or those of another source; they are decoded where that was not done before.

    No mask is opened.
    """
    with ProgressBar(console, "reading images") as report:
        images = settings.load_images(source, report)
    warn_left_out(console, images)
    return images
