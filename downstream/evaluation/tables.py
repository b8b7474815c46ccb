"""The tables that an evaluation writes, a row an image or a patient, and whether a file of their name is one."""

import csv
from dataclasses import fields
from pathlib import Path

from ahm_env import SettingsError
from downstream.evaluation.metrics import SegmentationScores

MEASURES = tuple(field.name for field in fields(SegmentationScores))
OF_IMAGES, OF_PATIENTS = "test.csv", "patients.csv"
# With what their first lines begin; more columns follow, of classes
BEGINNINGS = {
    OF_IMAGES: (["image", "patient", *MEASURES], ["image", "patient", "label", "prediction"]),
    OF_PATIENTS: (["patient", "images", "first_image", "dice"],),
}


def is_ours(table: Path) -> bool:
    """Whether an evaluation wrote a table, by its first line.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with table.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), [])
    except (UnicodeDecodeError, csv.Error):
        return False
    return any(header[: len(beginning)] == beginning for beginning in BEGINNINGS[table.name])


def check_directory(directory: Path, flag: str) -> None:
    """Refuse a directory for tables and pictures in which somebody else's would be lost.

    Raises:
        SettingsError: It is a run, or a table in it was not written by an evaluation, or a picture beside no table.
        OSError: A table cannot be read.
    """
    if (directory / "config.json").exists():
        raise SettingsError(f"{flag} {directory} is a run, whose own test.csv would be lost; give another directory")
    lost = f"and would be lost; give another {flag}"
    for table in (directory / OF_IMAGES, directory / OF_PATIENTS):
        if table.exists() and not is_ours(table):
            raise SettingsError(f"{table}: was not written by `evaluate`, {lost}")
    for picture in (directory / "cases.png", directory / "confusion.png"):
        if picture.exists() and not (directory / OF_IMAGES).exists():
            raise SettingsError(f"{picture}: is beside no test.csv of `evaluate`, {lost}")
