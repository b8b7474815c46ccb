"""The example that logs elsewhere."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from ahm_env.runs.directory import Row
from downstream import finetune

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "log_elsewhere.py"))


@pytest.mark.slow
def test_rows_of_both_kinds_of_runs_go_where_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    rows = list[Row]()
    run = EXAMPLE["main"](rows.append, tmp_path / "run")
    assert rows[-1]["images"] == 48
    assert rows[-1]["hardness_likeliest"] == pytest.approx(run.metrics["hardness_likeliest"], rel=1e-4)
    assert len(rows) == len((run.path / "metrics.csv").read_text().splitlines()) - 1
    tuned: dict[str, Any] = {"labels": 8, "steps": 2, "batch_size": 2}
    before = len(rows)
    finetune(run, out=tmp_path / "tuned", observer=EXAMPLE["RowLog"](rows.append), **tuned)
    assert len(rows) > before
