"""Observers: what follows a run while it goes on, such as a progress bar or log lines."""

import warnings
from typing import Protocol

from ahm_env.runs.directory import Row


class Observer(Protocol):
    """Follows a run."""

    def on_update(self, images: int, loss: float) -> None:
        """Take note of a step: how many images have been shown so far, and its loss."""

    def on_row(self, row: Row) -> None:
        """Take note of a row of `metrics.csv`."""

    def on_warning(self, text: str) -> None:
        """Take note of something that the user should know, while the run goes on."""


class Silent:
    """An observer of any run that shows nothing; warnings become Python's own."""

    def on_update(self, images: int, loss: float) -> None:
        """Show nothing."""

    def on_row(self, row: Row) -> None:
        """Show nothing."""

    def on_warning(self, text: str) -> None:
        """Warn of it."""
        warnings.warn(text, stacklevel=2)
