"""An argument parser with better manners: one message, and "did you mean"."""

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

import models
from util import distributed


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one message for the whole job, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with status 2."""
        distributed.print_error_once(f"{self.prog}: error: {message}")
        raise SystemExit(2)

    def unknown(self, arguments: Sequence[str]) -> list[str]:
        """One problem for each of the `arguments`, which no option of this parser takes."""
        known = [name for action in self._actions for name in action.option_strings]
        before = ["", *arguments]  # what follows an unknown option is most likely its value
        return [
            _unknown_argument(argument, known)
            for argument, previous in zip(arguments, before, strict=False)
            if _is_option(argument) or not _is_option(previous)
        ]

    def given(self, argv: Sequence[str]) -> set[str]:
        """The destinations that `argv` sets; every other one has its default."""
        untouched = object()
        namespace = argparse.Namespace(**{action.dest: untouched for action in self._actions})
        self.parse_known_args(argv, namespace)
        return {dest for dest, value in vars(namespace).items() if value is not untouched}

    def accepts(self, dest: str, value: Any) -> bool:
        """Whether `value`, read from a file, is one that `dest` could have."""
        default = self.get_default(dest)
        for action in self._actions:
            if action.dest == dest and action.nargs not in (None, 0, "?"):
                kind = action.type or str
                return isinstance(value, list) and all(type(part) is kind for part in value)
            if action.dest == dest:
                kinds = {float: (int, float), type(None): (action.type or str,)}
                fits = type(value) in kinds.get(type(default), (type(default),))
                return value == default or (
                    fits and (not action.choices or value in action.choices)
                )
        return False

    def flag(self, dest: str, value: Any) -> str:
        """How a user would type that `dest` has `value`, for messages."""
        for action in self._actions:
            if action.dest == dest and action.nargs == 0 and action.const == value:
                return action.option_strings[0]
        return f"--{dest} {value}"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.nargs == 0 or action.default in (None, ""):
            return action.help
        return super()._get_help_string(action)


def _is_option(argument: str) -> bool:
    return argument.startswith("--")


def _unknown_argument(argument: str, known: Sequence[str]) -> str:
    name = argument.split("=")[0]
    if not _is_option(name):
        return f"unexpected argument {argument}: every option is written --name value"
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}?" if close else "--help lists the options"
    owners = models.owners_of(name)
    if owners:
        hint = f"it belongs to the training of --model {' or '.join(owners)}"
    return f"unknown option {name}: {hint}"
