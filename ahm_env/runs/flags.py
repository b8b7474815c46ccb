"""Flags of the command line, made from settings classes: what a setting is called, does and defaults to is said once.

A command is a function. One of its parameters may stand for all settings of a class, `Annotated[dict[str, Any],
Settings of a class]`; on the command line it becomes a flag for each of them, and the function is given those that the
user named.
"""

import inspect
import json
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

import typer

from ahm_env.errors import SettingsError

Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out, with its own settings.", rich_help_panel="Run")
]
Preset = Annotated[str | None, typer.Option("--preset", help="Settings by a name; flags win.", rich_help_panel="Run")]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings from the config.json of a run; flags win.", rich_help_panel="Run"),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE: a setting of the agent, such as image_weight=2.", rich_help_panel="Agent"),
]


@dataclass(frozen=True)
class Flag:
    """How a setting is shown on the command line: `Annotated[int, Flag("Number of optimiser steps.")]`.

    Attributes:
        help: A sentence.
        panel: The group of flags in which it stands.
        default: What the help shows; None: the default of the setting.
        name: Of the flag; None: the name of the setting.
        kind: What the command line reads; None: the type of the setting where that is simple, else text.
    """

    help: str
    panel: str = "Run"
    default: str | None = None
    name: str | None = None
    kind: type | None = None


@dataclass(frozen=True)
class FlagsOf:
    """Stands for the settings of a class in the signature of a command.

    Attributes:
        settings: A dataclass whose fields are annotated with `Flag`; others are no flags.
        without: Settings that are no flags of this command.
        decided: Settings that are the pretraining run's where the user does not name them.
    """

    settings: type
    without: frozenset[str] = frozenset()
    decided: frozenset[str] = frozenset()

    def parameters(self) -> list[inspect.Parameter]:
        """Make a parameter for each flag; None means that the user did not give it."""
        return [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=self._option(name, flag))
            for name, flag in flags_of(self.settings).items()
            if name not in self.without
        ]

    def _option(self, name: str, flag: Flag) -> Any:
        kind = get_type_hints(self.settings)[name]
        kinds = [one for one in get_args(kind) if one is not NoneType] or [kind]
        default, word = getattr(self.settings, name), (flag.name or name).replace("_", "-")
        if kinds[0] is bool:
            default, word = word if default else f"no-{word}", f"{word}/--no-{word}"
        shown = flag.default or ("" if default is None else str(default))
        if name in self.decided:
            shown = f"the run's, else {shown}"
        option = typer.Option(f"--{word}", help=flag.help, show_default=shown or False, rich_help_panel=flag.panel)
        simple = kinds[0] if kinds[0] in (bool, int, float, Path) else str  # a setting reads itself from text
        return Annotated[(flag.kind or simple) | None, option]


@cache
def flags_of(settings: type) -> dict[str, Flag]:
    """Name of each setting that is a flag, and how that is shown."""
    hints = get_type_hints(settings, include_extras=True)
    extras = ((field.name, extra) for field in fields(settings) for extra in get_args(hints[field.name]))
    return {name: extra for name, extra in extras if isinstance(extra, Flag)}


def command(function: Callable[..., int | None]) -> Callable[..., None]:
    """Turn a function into a command of typer: its own parameters, and flags in place of those that stand for settings.

    The result of the function is the exit status.
    """
    signature = inspect.signature(function, eval_str=True)
    flags = {
        name: extra.parameters()
        for name, parameter in signature.parameters.items()
        for extra in get_args(parameter.annotation)
        if isinstance(extra, FlagsOf)
    }

    def run(**values: Any) -> None:
        for name, some in flags.items():
            values[name] = {one.name: values.pop(one.name) for one in some}
        try:
            status = function(**values) or 0
        except KeyboardInterrupt:  # outside of a run, which saves and says so itself
            typer.echo("error: stopped by Ctrl-C; what was saved stays", err=True)
            status = 128 + signal.SIGINT
        raise typer.Exit(status)

    own = [one for name, one in signature.parameters.items() if name not in flags]
    run.__doc__ = function.__doc__
    every = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    run.__signature__ = inspect.Signature([*every, *(one for some in flags.values() for one in some)])  # type: ignore[attr-defined]
    run.__annotations__ = {}
    return run


def flag_name(settings: type, name: str) -> str:
    """Name the flag by which a setting is given; what is no setting of the class is one of the agent."""
    known = flags_of(settings)
    word = (known[name].name if name in known else None) or name
    return f"--{word.replace('_', '-')}" if name in {field.name for field in fields(settings)} else f"--set {name}"


def plain(value: Any) -> Any:
    """Return a number as Python's own, which JSON can hold, whatever library it is of; all else as it is."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def pairs(texts: Iterable[str], flag: str) -> dict[str, Any]:
    """Read settings that are written `KEY=VALUE`; a value is a text, or a number, true, false or null.

    Raises:
        SettingsError: One is misspelt, or there twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        name = key.strip().replace("-", "_")
        if not equals or not name:
            raise SettingsError(f"{flag} {text} is not KEY=VALUE, such as image_weight=2 or mix=none")
        if name in found:
            raise SettingsError(f"{flag} {key} is there twice; name each once")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def with_config(settings: type, config: Path | None, preset: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Combine the settings in a `config.json` that a run wrote with those that the user named, which win.

    Args:
        settings: The class of the settings.
        config: The file, or a JSON file that holds settings and nothing else; None for none.
        preset: Name of a preset, which cannot be had together with a file.
        given: What the user named; None is not named.

    Raises:
        SettingsError: The file is missing, damaged, or holds other settings.
    """
    named = {name: one for name, one in given.items() if one is not None}
    if config is None:
        return named
    if preset is not None:
        raise SettingsError(f"--config {config} and --preset {preset}: both decide all settings; give one of them")
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        found = dict(content.get("settings", content))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SettingsError(f"--config {config}: missing or damaged ({error}); give a run's config.json") from None
    known = {field.name for field in fields(settings)}
    if odd := sorted(set(found) - known):
        raise SettingsError(f"--config {config}: there is no setting {odd[0]} here; is it of another command?")
    return {**found, **named}
