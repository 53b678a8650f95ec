"""Plug-ins by name. A plug-in is a class with a ``name`` in its family's module or folder of modules; the
registry imports it on first use, so there is no list to maintain."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Generic, TypeVar

from asd_core.types import AsdError

T = TypeVar("T")


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """' Did you mean "x"?' or an empty string."""
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f' Did you mean "{close[0]}"?' if close else ""


class Registry(Generic[T]):
    """All subclasses of `base` found in `package` (a module or a folder of modules), by their ``name``."""

    def __init__(self, family: str, package: str, base: type[T]) -> None:
        self.family, self.package, self.base = family, package, base

    @cached_property
    def classes(self) -> dict[str, type[T]]:
        found: dict[str, type[T]] = {}
        home = importlib.import_module(self.package)
        modules = [f"{self.package}.{module.name}" for module in pkgutil.iter_modules(getattr(home, "__path__", []))]
        for loaded in (home, *map(importlib.import_module, modules)):
            for value in vars(loaded).values():
                is_plugin = inspect.isclass(value) and issubclass(value, self.base) and "name" in vars(value)
                if is_plugin and value.__module__ == loaded.__name__:
                    name = value.name
                    if name in found:
                        raise TypeError(f"two {self.family}s are called {name!r}: {found[name]}, {value}")
                    found[name] = value
        return found

    def __getitem__(self, name: str) -> type[T]:
        if name not in self.classes:
            raise AsdError(
                f'There is no {self.family} "{name}". Known: {", ".join(sorted(self.classes))}.'
                + did_you_mean(name, self.classes)
            )
        return self.classes[name]

    def check(self, spec: Mapping[str, Any], where: str) -> None:
        """Compare a ``{name: …, option: …}`` mapping with the constructor it will be passed to."""
        options = {key: value for key, value in spec.items() if key != "name"}
        parameters = inspect.signature(self[spec["name"]]).parameters
        allowed = [p.name for p in parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        for key in options:
            if key not in allowed:
                raise AsdError(
                    f'{where}: {self.family} "{spec["name"]}" has no option "{key}". '
                    f"Allowed: {', '.join(allowed) or 'none'}.{did_you_mean(key, allowed)}"
                )

    def create(self, spec: Mapping[str, Any], where: str = "", **extra: Any) -> T:
        """Build the plug-in that `spec` describes; `extra` adds what the caller knows and a YAML cannot."""
        self.check(spec, where or self.family)
        options = {key: value for key, value in spec.items() if key != "name"}
        try:
            return self[spec["name"]](**options, **extra)
        except (TypeError, ValueError) as error:
            raise AsdError(f'{where or self.family}: {self.family} "{spec["name"]}": {error}') from error
