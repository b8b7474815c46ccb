"""What the numbers among an agent's settings may be: a name means the same in all of our agents."""

from collections.abc import Callable
from math import inf
from typing import Any

from ahm_env.errors import SettingsError

RANGES: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    ("more than 0", lambda number: number > 0, ("learning_rate", "max_grad_norm", "clip_range", "target_kl")),
    ("0 or more", lambda number: number >= 0, ("own_weight", "to_go_weight", "image_weight", "vf_coef")),
    ("1 or more", lambda number: number >= 1, ("sizes", "n_steps", "n_epochs", "minibatches")),
    ("from 0 to 1", lambda number: 0 <= number <= 1, ("explore", "gamma", "gae_lambda")),
)


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
