"""Finds classes by the name of their file: how models and data sets are plugged in."""

import difflib
import importlib
import inspect
from pathlib import Path

from util.errors import UserError


class Registry:
    """Maps NAME to the class <Name><Kind> in PACKAGE/NAME_KIND.py.

    Args:
        kind: "model" or "dataset".
        package: the importable package that the files are in.
        folder: its folder.
        base: the class that all must subclass.
    """

    def __init__(self, kind: str, package: str, folder: str, base: type):
        """Remember where to look; nothing is imported yet."""
        self.kind, self.package, self.folder, self.base = kind, package, Path(folder), base

    def names(self) -> list[str]:
        """The names there are."""
        found = {path.name.removesuffix(f"_{self.kind}.py") for path in self._files()}
        return sorted(found - {"base"})

    def find(self, name: str) -> type:
        """The class of a name; case and underscores of the class name do not matter.

        Raises:
            UserError: no such file, or no such class in it. An error inside the file is its own.
        """
        path = self.folder / f"{name}_{self.kind}.py"
        if name not in self.names():
            raise UserError(self._not_found(name, path))
        module = importlib.import_module(f"{self.package}.{path.stem}")
        wanted = (name.replace("_", "") + self.kind).lower()
        for attribute, value in vars(module).items():
            if attribute.lower() == wanted and self._fits(value):
                return value
        raise UserError(
            f"{path} has no class {name.title().replace('_', '')}{self.kind.title()} that "
            f"subclasses {self.base.__name__}"
        )

    def _fits(self, value: object) -> bool:
        return inspect.isclass(value) and issubclass(value, self.base)

    def _files(self) -> list[Path]:
        return list(self.folder.glob(f"*_{self.kind}.py"))

    def _not_found(self, name: str, path: Path) -> str:
        flag = {"model": "--model", "dataset": "--dataset_mode"}[self.kind]
        close = difflib.get_close_matches(name, self.names(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{flag} {name}: {hint}There are {', '.join(self.names())}; {path} would add it"
