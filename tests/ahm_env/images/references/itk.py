"""SimpleITK, imported in one place, silent."""

from pathlib import Path
from typing import Any


def read(path: Path) -> Any:
    """Read an image."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK.ReadImage(str(path))


def array(image: Any) -> Any:
    """The values of an image; the last axis of an array is the first of the image."""
    import SimpleITK

    return SimpleITK.GetArrayFromImage(image)


def turned_to_ras(image: Any) -> Any:
    """The same volume, its axes along those of the patient: right, front and top grow."""
    import SimpleITK

    return SimpleITK.DICOMOrient(image if image.GetDimension() == 3 else SimpleITK.JoinSeries(image), "RAS")
