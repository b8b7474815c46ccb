"""Images for a machine that has none of their files."""

from typing import Any

from ahm_env.images.dataset.image_set import ImageSet


class LentImages(ImageSet):
    """The pixels and splits of a set, which go along when it is pickled, and nothing else that is known of it.

    Ray's object store holds the pixels once a node, for all processes there.

    Args:
        images: The set.
    """

    def __init__(self, images: ImageSet) -> None:
        self.source, self.functions = images.source, images.functions
        self.image_size, self.channels = images.image_size, images.channels
        self._images, self._splits = images._images, images._splits

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arrays."""
        return object.__new__, (type(self),), vars(self)
