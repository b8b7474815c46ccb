"""What the numbers among an agent's settings may be, and those that change evenly over a run."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from ahm_env.errors import SettingsError

# A name means the same in all of our agents.
RANGES: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    ("more than 0", lambda number: number > 0, ("learning_rate", "max_grad_norm", "clip_range", "target_kl")),
    ("0 or more", lambda number: number >= 0, ("own_weight", "to_go_weight", "image_weight", "vf_coef")),
    ("1 or more", lambda number: number >= 1, ("sizes", "n_steps", "n_epochs", "minibatches")),
    ("from 0 to 1", lambda number: 0 <= number <= 1, ("gamma", "gae_lambda")),
    ("between 0 and 1", lambda number: 0 < number < 1, ("explore",)),  # else sizes, or patches, are never learned
)


@dataclass(frozen=True)
class LinearSchedule:
    """A number that rises, or falls, evenly over a run.

    Attributes:
        start: At the start of the run.
        end: At its end; the same where it does not change.
    """

    start: float
    end: float

    @classmethod
    def parse(
        cls, given: "str | float | LinearSchedule", flag: str, low: float = 0.0, high: float = inf
    ) -> "LinearSchedule":
        """Read `0.5` or `0:0.5`.

        Args:
            given: What the user gave.
            flag: How the user named it.
            low: The least that it may be.
            high: The most that it may be.

        Raises:
            SettingsError: Not a number, nor two, or out of range.
        """
        if isinstance(given, LinearSchedule):
            return given
        try:
            numbers = [float(part) for part in str(given).split(":")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or not all(low <= number <= high and number < inf for number in numbers):
            allowed = f"of {low:g} or more" if high == inf else f"from {low:g} to {high:g}"
            raise SettingsError(f"{flag} {given} is not a number, or START:END, {allowed}; for example 1 or 0.5:1")
        return cls(numbers[0], numbers[-1])

    def __str__(self) -> str:
        start, end = (repr(float(number)).removesuffix(".0") for number in (self.start, self.end))
        return start if start == end else f"{start}:{end}"

    def at(self, progress: float) -> float:
        """Return the number after this part of the run, 0 to 1."""
        return self.start + (self.end - self.start) * min(1.0, progress)


def read_schedules(settings: Any) -> None:
    """Read what may change over a run in a frozen dataclass of settings: `ent_coef`, `temperature`, `bound` or None.

    Raises:
        SettingsError: One of them is no schedule, or out of range.
    """
    for name, low in {"ent_coef": 0.0, "temperature": 0.01, "bound": 0.01}.items():
        if name != "bound" or settings.bound is not None:
            object.__setattr__(settings, name, LinearSchedule.parse(getattr(settings, name), f"--set {name}", low))


def check_ranges(settings: Any) -> None:
    """Refuse numbers out of range in a dataclass of settings, which may lack some of them, or have None instead.

    Raises:
        SettingsError: One is out of range, infinite or not a number.
    """
    for words, holds, names in RANGES:
        for name in names:
            number = getattr(settings, name, None)
            if number is not None and not (abs(number) < inf and holds(number)):
                raise SettingsError(f"--set {name} {number} must be {words if abs(number) < inf else 'finite'}")
