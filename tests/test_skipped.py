"""A test run says what it left out, and how to have it."""

from pathlib import Path

import pytest

from tests.skipped import in_words

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def skipped(reason: str) -> pytest.TestReport:
    return pytest.TestReport("a.py::test", ("a.py", 1, "test"), {}, "skipped", ("a.py", 1, reason), "call")


def unread(reason: str) -> pytest.CollectReport:
    return pytest.CollectReport("a.py", "skipped", ("a.py", 1, reason), [])


def test_what_is_missing_is_told_by_name_with_its_tests_and_its_remedy() -> None:
    reports = [
        skipped("Skipped: could not import 'transformers': No module named 'transformers'"),
        skipped("Skipped: could not import 'monai.metrics': No module named 'monai'"),
        unread("Skipped: could not import 'nibabel': No module named 'nibabel'"),
        unread("Skipped: could not import 'pydicom': No module named 'pydicom'"),
        skipped("Skipped: could not import 'pydicom': No module named 'pydicom'"),
        skipped("Skipped: could not import 'isic_challenge_scoring.metrics': No module named 'isic_challenge_scoring'"),
        skipped("Skipped: could not import 'pandas': No module named 'pandas'"),
        skipped("Skipped: /usr/bin/chromium is missing: apt-get install chromium chromium-driver"),
        skipped("Skipped: needs processes that fork"),
    ]
    assert in_words(reports, PROJECT) == [
        "skipped for want of the extra dev: 2 tests; pip install -e '.[dev]'",
        "skipped for want of the extra medical: 1 test and 2 files; pip install -e '.[medical]'",
        "skipped for want of the extra sam: 1 test; pip install -e '.[sam]'",
        "skipped for want of the package pandas: 1 test; pip install pandas",
        "skipped for want of the program chromium: 1 test; apt-get install chromium chromium-driver",
    ]


def test_a_run_that_skips_nothing_says_nothing() -> None:
    assert in_words([], PROJECT) == []


def test_it_stands_in_the_last_lines_of_a_run(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # in a process of pytest-xdist
        from _pytest.terminal import TerminalReporter

        reporter = TerminalReporter(pytestconfig)
    monkeypatch.setattr(reporter, "stats", {"skipped": [skipped("Skipped: could not import 'torchrl': no module")]})
    monkeypatch.setattr(reporter, "write_line", lambda line, **_: written.append(line))
    for plugin in pytestconfig.pluginmanager.get_plugins():
        if Path(getattr(plugin, "__file__", None) or "") == Path(__file__).with_name("conftest.py"):
            plugin.pytest_terminal_summary(reporter, pytestconfig)
    assert written == ["skipped for want of the extra interop: 1 test; pip install -e '.[interop]'"]
