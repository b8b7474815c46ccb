import numpy as np
import pytest

from ahm_env.errors import SettingsError
from ahm_env.images.phantom.source import Phantom


@pytest.mark.parametrize(("spec", "count"), [("phantom", 1000), ("phantom:12", 12), ("phantom:40:7", 40)])
def test_the_spec_says_how_many(spec: str, count: int) -> None:
    index = Phantom(spec, 16).index()
    assert index.count == count
    assert index.classes == ("keratosis", "melanoma", "nevus")
    assert index.has_masks


@pytest.mark.parametrize(
    "spec",
    ["phantom:-3", "phantom:x", "phantom:0", "phantom:", "phantom:5:", "phantom:5:-1", "phantom:1:2:3", "phantom:1e3"],
)
def test_a_misspelt_spec_is_refused(spec: str) -> None:
    with pytest.raises(SettingsError, match=f"{spec}: not phantom:COUNT:SEED; write for example phantom:1000"):
        Phantom(spec, 16)


@pytest.mark.slow
def test_eight_of_ten_are_for_training() -> None:
    splits = [load().split for load in Phantom("phantom:40", 8).index().samples]
    assert [splits.count(split) for split in range(3)] == [32, 4, 4]


def test_an_image_does_not_depend_on_how_many_there_are() -> None:
    few, many = (list(Phantom(spec, 32).index().samples) for spec in ("phantom:5:3", "phantom:9:3"))
    assert np.array_equal(few[4]().image, many[4]().image)
    assert few[4]().name == "phantom_000004"


def test_the_fingerprint_follows_the_parameters() -> None:
    seen = {Phantom(spec, size).fingerprint() for spec in ("phantom:5", "phantom:6", "phantom:5:1") for size in (8, 9)}
    assert len(seen) == 6
    assert Phantom("phantom", 8).fingerprint() == Phantom("phantom:1000:0", 8).fingerprint()
