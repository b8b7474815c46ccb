"""What a test run left out for want of an extra of this project, or of a browser, in a few lines."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest


def in_words(reports: Iterable[pytest.TestReport | pytest.CollectReport], project: Path) -> list[str]:
    """A line for each extra or program that is missing: what it is, how many tests need it, how to install it.

    Args:
        reports: Of what was skipped. Without a package that a whole file needs, its tests are not even counted.
        project: `pyproject.toml`, whose extras are told by their names.
    """
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    owners = {re.split(r"[<>=]", one)[0].replace("-", "_"): name for name, needs in extras.items() for one in needs}
    missing = Counter[tuple[str, str, str]]()
    for report in reports:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        kind = "test" if isinstance(report, pytest.TestReport) else "file"
        if package := re.search(r"could not import '(\w+)", reason):
            extra = owners.get(package[1])
            what = f"extra {extra}" if extra else f"package {package[1]}"
            remedy = f"pip install -e '.[{extra}]'" if extra else f"pip install {package[1]}"
            missing[what, remedy, kind] += 1
        elif program := re.search(r"(\w+) is missing: (.+)", reason):
            missing[f"program {program[1]}", program[2], kind] += 1
    lines = {}
    for (what, remedy, kind), count in sorted(missing.items()):
        counts, _ = lines.get(what, ([], remedy))
        lines[what] = ([*counts, f"{count} {kind}{'s' * (count > 1)}"], remedy)
    return [
        f"skipped for want of the {what}: {' and '.join(reversed(counts))}; {remedy}"
        for what, (counts, remedy) in lines.items()
    ]
