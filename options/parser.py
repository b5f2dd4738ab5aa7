"""An argument parser that knows the range of an option, and tells all problems at once."""

import argparse
import difflib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

from util.errors import UserError

OLD_NAMES = {  # those of the original in 2017 and 2018, which tutorials still have
    "--align_data": "--dataset_mode aligned", "--batchSize": "--batch_size",
    "--display_single_pane_ncols": "--display_ncols", "--fineSize": "--crop_size",
    "--how_many": "--num_test", "--identity": "--lambda_identity", "--loadSize": "--load_size",
    "--nThreads": "--num_threads", "--niter": "--n_epochs", "--niter_decay": "--n_epochs_decay",
    "--no_lsgan": "--gan_mode vanilla", "--ntest": "--num_test", "--resize_or_crop": "--preprocess",
    "--use_dropout": "--dropout", "--which_direction": "--direction", "--which_epoch": "--epoch",
    "--which_model_netD": "--netD", "--which_model_netG": "--netG",
}  # fmt: skip
ON_RESUME = ("keep", "may change", "not restored")


class OptionFacts(NamedTuple):
    """What stands beside an option in its `add_argument`; see `Parser`."""

    least: float | None = None
    most: float | None = None
    on_resume: str = "keep"
    required: bool = False


class Actions(dict):
    """What makes an action, by its name or class, as argparse keeps it; passed through `wrap`."""

    def __init__(self, actions: dict, wrap: Callable[..., argparse.Action]):
        super().__init__(actions)
        self.wrap = wrap

    def get(self, key: Any, default: Any = None) -> Any:
        """The maker, or `default` as it is if it can make nothing."""
        make = super().get(key, default)
        return partial(self.wrap, make) if callable(make) else make


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose `add_argument`, in groups too, has more keywords; all may be left out.

    least, most: the range of a number. With `least`, infinity is refused, unless it is `most`.
    on_resume: what `--continue_train` does with the option. "keep": the run keeps its value, and
        another one is refused. "may change": the run keeps its value unless another is given.
        "not restored": it belongs to the command, not to the run.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = re.compile(
            r"-\.?\d"
        )  # also -1e3, which argparse leaves out
        self._facts: dict[argparse.Action, OptionFacts] = {}
        self._given: dict[argparse.Action, None] = {}  # in their order
        self._required_groups: list[argparse._MutuallyExclusiveGroup] = []
        actions = self._registries["action"]  # groups share it
        self._registries["action"] = Actions(actions, wrap=self._make_action)

    def add_mutually_exclusive_group(self, **kwargs: Any) -> argparse._MutuallyExclusiveGroup:
        """As in argparse; that one is required is seen when all are read."""
        required = kwargs.pop("required", False)
        group = super().add_mutually_exclusive_group(**kwargs)
        self._required_groups += [group] * required
        return group

    def _make_action(self, make: Callable[..., argparse.Action], **more: Any) -> argparse.Action:
        facts = OptionFacts(**{key: more.pop(key) for key in OptionFacts._fields if key in more})
        if facts.on_resume not in ON_RESUME:
            raise ValueError(f"on_resume={facts.on_resume!r} is none of {ON_RESUME}")
        action = make(**more)
        self._facts[action] = facts
        return action

    def error(self, message: str) -> NoReturn:
        """Raise a UserError, which `read` collects."""
        raise UserError(message)

    def read(self, argv: Sequence[str]) -> tuple[argparse.Namespace, set[str], list[str]]:
        """The options, the names of those given, and a sentence for each wrong one.

        A wrong one has its default instead.
        """
        opt = argparse.Namespace()
        problems: list[str] = []
        self._given = {}
        options: list[list[str]] = [[]]  # each with its values; the first are the defaults
        for word in argv:
            options.append([word]) if word.startswith("--") else options[-1].append(word)
        for words in options:  # one by one, since argparse stops at the first problem
            try:
                unknown = self.parse_known_args(words, opt)[1]
                problems += [self._unknown(word) for word in unknown[:1]]  # its values come after
            except UserError as error:
                problems.append(str(error))
        problems += self._missing_or_exclusive()
        return opt, {action.dest for action in self._given}, list(dict.fromkeys(problems))

    def _missing_or_exclusive(self) -> Iterator[str]:
        for group in self._mutually_exclusive_groups:
            given = [a.option_strings[0] for a in self._given if a in group._group_actions]
            for name in given[1:]:
                yield f"argument {name}: not allowed with argument {given[0]}"
        for group in self._required_groups:
            if not any(action in self._given for action in group._group_actions):
                names = " or ".join(action.option_strings[0] for action in group._group_actions)
                yield f"{names} is required"
        for action in self._actions:
            if self._facts[action].required and action not in self._given:
                yield f"{action.option_strings[0]} is required"

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        self._given[action] = None  # argparse calls this for what the command line has
        return super()._get_values(action, arg_strings)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        value = super()._get_value(action, arg_string)
        reason = range_error(value, self._facts[action])
        if reason:
            self.error(f"{action.option_strings[0]} {value} is {reason}")
        return value

    def _action(self, dest: str) -> argparse.Action | None:
        return next((action for action in self._actions if action.dest == dest), None)

    def on_resume(self, dest: str) -> str:
        """What becomes of an option when a run is continued; see the class."""
        action = self._action(dest)
        return self._facts[action].on_resume if action else "keep"

    def accepts(self, dest: str, value: Any) -> bool:
        """Whether `value`, read from a file, is one that `dest` could have."""
        action = self._action(dest)
        if action is not None and value is None and action.default is None:
            return True
        parts = value if isinstance(value, list) else [value]
        if action is None or any(range_error(part, self._facts[action]) for part in parts):
            return False
        if action.nargs not in (None, 0, "?"):
            kind = action.type or str
            return parts is value and all(type(part) is kind for part in parts)
        number = {int: (int,), float: (int, float)}.get(action.type)  # type: ignore[call-overload]
        if number or type(action.default) is float:
            fits = type(value) in (number or (int, float))
        elif action.default is None:  # flags that count and the like; append
            kind = list if isinstance(action, argparse._AppendAction) else str
            fits = type(value) in ((bool, int) if action.nargs == 0 else (kind,))
        else:
            fits = type(value) is type(action.default)
        return value == action.default or (fits and (not action.choices or value in action.choices))

    def flag(self, dest: str, value: Any) -> str:
        """How `dest` is given `value` on a command line, for messages."""
        for action in self._actions:
            if action.dest == dest and action.nargs == 0 and action.const == value:
                return action.option_strings[0]
        if isinstance(value, list):
            value = " ".join(
                f"{part:g}" if isinstance(part, float) else str(part) for part in value
            )
        return f"no --{dest}" if value is False else f"--{dest} {value}"

    def _unknown(self, argument: str) -> str:
        """A sentence about an argument that no option takes."""
        name = argument.split("=")[0]
        if not name.startswith("--"):
            return f"unexpected argument {argument}: every option is written --name value"
        close = difflib.get_close_matches(name, self._option_string_actions, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(close)}?" if close else "--help lists the options"
        if name in OLD_NAMES:
            hint = f"it is called {OLD_NAMES[name]} now"
        return f"unknown option {name}: {hint}"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shown = action.nargs != 0 and action.default not in (None, "")
        return super()._get_help_string(action) if shown else action.help


def range_error(number: Any, facts: OptionFacts) -> str | None:
    """What is wrong with a number that an option cannot be; None if it can, or is no number."""
    if not isinstance(number, (int, float)):
        return None
    least, most = facts.least, facts.most
    if math.isnan(number) or (number == math.inf and least is not None and most != math.inf):
        return "no number to compute with; use a finite one"
    if least is not None and number < least:
        return f"too small; it must be at least {least}"
    if most is not None and number > most:
        return f"too large; it must be at most {most}"
    return None
