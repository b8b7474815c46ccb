"""Nobody watches a run: what it tells of itself is dropped, but for warnings."""

import warnings


class Silent:
    """An observer of any run that shows nothing; warnings become Python's own."""

    def on_update(self, *_: object) -> None:
        """Show nothing."""

    def on_row(self, *_: object) -> None:
        """Show nothing."""

    def on_warning(self, text: str) -> None:
        """Warn of it."""
        warnings.warn(text, stacklevel=2)
