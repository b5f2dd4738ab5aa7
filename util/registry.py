"""Finds classes by the name of their file: how models and datasets are plugged in."""

import difflib
import importlib
import pkgutil
import sys

from util.errors import UserError


class Registry:
    """Maps NAME to the subclass <Name><Kind> of `base` in PACKAGE/NAME_KIND.py.

    Messages name the option `flag`.
    """

    def __init__(self, package: str, kind: str, base: type, flag: str):
        self.package, self.suffix, self.base, self.flag = package, f"_{kind}", base, flag

    def names(self) -> list[str]:
        """The names there are, sorted."""
        files = (module.name for module in pkgutil.iter_modules(sys.modules[self.package].__path__))
        found = {file.removesuffix(self.suffix) for file in files if file.endswith(self.suffix)}
        return sorted(found - {"base"})

    def find(self, name: str) -> type:
        """The class of a name; case and underscores of the class name do not matter.

        UserError if there is no such file, or no such class in it.
        """
        names = self.names()
        if name not in names:
            close = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise UserError(
                f"{self.flag} {name}: there is no {self.package}/{name}{self.suffix}.py{hint} "
                f"Those that exist: {', '.join(names)}"
            )
        module = importlib.import_module(f"{self.package}.{name}{self.suffix}")
        wanted = (name + self.suffix).replace("_", "").lower()
        for attribute, value in vars(module).items():
            fits = isinstance(value, type) and issubclass(value, self.base)
            if fits and attribute.lower() == wanted:
                return value
        camel = "".join(word.title() for word in (name + self.suffix).split("_"))
        raise UserError(
            f"{self.flag} {name}: {module.__file__} must define a class {camel} that inherits from "
            f"{self.base.__module__}.{self.base.__name__}"
        )
