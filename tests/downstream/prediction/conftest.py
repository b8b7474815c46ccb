"""What the tests of prediction share: the command, with a model that finds what is bright."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from downstream.console import predict_images
from downstream.models.model import MODEL_FILE, ModelSpec
from downstream.prediction import prediction
from tests.downstream.prediction.examples import Bands, Run


@pytest.fixture
def run(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Predicts paths into `out`, by brightness; keywords change the spec."""
    Path("tuned").mkdir()

    def run(*paths: str, out: str = "out", burned_in: bool = False, **about: Any) -> int:
        model = Bands(replace(spec, **{"fit": "pad", "window": "127.5,255", "channels": 1, **about}))
        Path("tuned", MODEL_FILE).write_text(repr(model.spec))
        monkeypatch.setattr(prediction, "load_tuned", lambda *_: (model, None))
        return predict_images(
            Path("tuned"), [Path(path) for path in paths], Path(out), overlays=True, burned_in=burned_in
        )

    return run
