"""Log a run elsewhere: `python examples/log_elsewhere.py` prints each row of its `metrics.csv` as it comes."""

from collections.abc import Callable
from pathlib import Path

from agents import PretrainedRun, pretrain
from ahm_env.runs.observer import Silent


class RowLog(Silent):
    """Hand the rows of a run of pretraining or of fine-tuning to a function, such as `wandb.log`."""

    def __init__(self, log: Callable[[dict[str, float]], object]) -> None:
        self.log = log

    def on_row(self, row: dict[str, float]) -> None:
        """Pass on name and value of each number of the row; `images` says when it was measured."""
        self.log(row)


def main(log: Callable[[dict[str, float]], object] = print, out: str | Path | None = None) -> PretrainedRun:
    """Pretrain on drawn images, and log its rows."""
    return pretrain("phantom:100", out, algo="a3c", total_images=48, workers=1, observer=RowLog(log))


if __name__ == "__main__":
    main()
