"""Every command in README and docs is one that `ahm` takes, and every module, script and make target is there."""

import re
import shlex
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

import ahm
from agents import A2CSettings, A3CSettings, PPOSettings
from agents.loss_predictor import HardPatchesSettings

ROOT = Path(ahm.__file__).resolve().parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOREIGN = {"rl_zoo3"}  # modules of packages that need not be installed
DOTS = ("…", "...")  # as in `ahm data …`


def shell_lines(page: Path) -> list[str]:
    """Lines of shell blocks, continued lines joined and comments taken off."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]


def named(page: Path) -> list[str]:
    """What stands between backticks in sentences."""
    plain = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", plain)]


def beginning(start: str, whole: bool) -> list[tuple[str, str]]:
    lines = shell_lines if whole else named
    return sorted({(page.name, line) for page in PAGES for line in lines(page) if line.startswith(start)})


def parse(line: str, whole: bool) -> None:
    """Let `ahm` parse a line, without running it; one that is only named need not be complete."""
    words = [word for word in shlex.split(line)[1:] if word not in DOTS]
    command, name = typer.main.get_command(ahm.app), "ahm"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name.isupper() and not whole:  # `ahm COMMAND --help`
            return
        assert name in command.commands, f"{line}: there is no command {name}"
        command = command.commands[name]
    if "--help" not in words and (whole or words):
        try:
            command.make_context(name, words)
        except Exception as error:
            if whole or type(error).__name__ != "MissingParameter":
                raise AssertionError(f"{line}: {error}") from error


@pytest.mark.parametrize(("page", "line"), beginning("ahm ", whole=True))
def test_every_command_parses(page: str, line: str):
    parse(line, whole=True)


@pytest.mark.parametrize(("page", "line"), beginning("ahm ", whole=False))
def test_every_command_that_is_named_is_there(page: str, line: str):
    parse(line, whole=False)


def test_commands_are_found_and_wrong_ones_are_noticed():
    assert len(beginning("ahm ", whole=True)) > 30
    for line in ("ahm finetun", "ahm finetune --label 3", "ahm finetune --steps many", "ahm data check"):
        with pytest.raises(AssertionError):
            parse(line, whole=True)


@pytest.mark.parametrize("whole", [True, False])
def test_every_module_script_and_target_is_there(whole: bool):
    for start in ("python ", "make "):
        for page, line in beginning(start, whole):
            first, second, *rest = [*shlex.split(line), ""]
            if first == "make" and second not in DOTS:
                targets = [second] if whole else [word for word in (second, *rest) if word and "=" not in word]
                text = (ROOT / "Makefile").read_text(encoding="utf-8")
                assert all(re.search(rf"^{one}:", text, re.MULTILINE) for one in targets), f"{page}: {line}"
            elif second == "-m":
                assert rest[0].split(".")[0] in FOREIGN or find_spec(rest[0]) is not None, f"{page}: {line}"
                for word in rest[1:] if rest[0] == "pytest" else ():
                    assert not word.startswith("tests") or (ROOT / word).exists(), f"{page}: {line}"
            elif second.endswith(".py"):
                assert (ROOT / second).is_file(), f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_but_those_of_tables_are_of_readable_length(page: Path):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_every_setting_of_an_agent_is_listed_with_its_default():
    text = " ".join((ROOT / "docs" / "agents.md").read_text(encoding="utf-8").split())
    for names, kind in {
        "a3c, untrained": A3CSettings,
        "ppo": PPOSettings,
        "a2c": A2CSettings,
        "hard-patches, easy-patches, learning-progress": HardPatchesSettings,
    }.items():
        settings = ", ".join(f"`{field.name}` {getattr(kind(), field.name)}" for field in fields(kind))
        assert f"- {names}: {settings}" in text
