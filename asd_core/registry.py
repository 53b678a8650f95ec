"""Plug-ins by name. A plug-in is a class with a ``name`` in its family's module or folder of modules; the
registry imports it on first use, so there is no list to maintain."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from asd_core.types import AsdError

T = TypeVar("T")

STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a mapping",
    NoneType: "null",
}
NOT_YAML = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")  # YAML 1.1 wants a point and a signed exponent: 1.0e-1


def did_you_mean(word: object, allowed: Iterable[str]) -> str:
    """' Did you mean "x"?' or an empty string."""
    close = difflib.get_close_matches(str(word), list(allowed), n=1)
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

    def check(self, spec: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """Compare a ``{name: …, option: …}`` mapping with the constructor it will be passed to.

        Returns:
            the options in the types that the constructor states: 1 becomes 1.0 where a float is due
        """
        name = str(spec.get("name", ""))
        place = f'{where or self.family}: {self.family} "{name}"'
        parameters = self._parameters(name)
        options = {}
        for key, value in spec.items():
            if key == "name":
                continue
            if key not in parameters:
                raise AsdError(
                    f'{place} has no option "{key}". '
                    f"Allowed: {', '.join(parameters) or 'none'}.{did_you_mean(key, parameters)}"
                )
            options[key] = _typed(value, parameters[key], place)
        return options

    def resolved(self, spec: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """`spec` with the constructor's defaults filled in, as JSON would give it back. What has no default and is not
        in `spec` stays out: the caller of `create` adds it."""
        options = self.check(spec, where)
        parameters = self._parameters(spec["name"]).values()
        defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
        return json.loads(json.dumps({"name": spec["name"]} | defaults | options))

    def _parameters(self, name: str) -> dict[str, inspect.Parameter]:
        parameters = inspect.signature(self[name], eval_str=True).parameters.values()
        return {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    def create(self, spec: Mapping[str, Any], where: str = "", **extra: Any) -> T:
        """Build the plug-in that `spec` describes; `extra` adds what the caller knows and a YAML cannot."""
        options = self.check(spec, where)
        try:
            return self[spec["name"]](**options, **extra)
        except (TypeError, ValueError) as error:
            raise AsdError(f'{where or self.family}: {self.family} "{spec["name"]}": {error}') from error


def _typed(value: Any, parameter: inspect.Parameter, place: str) -> Any:
    """`value`, as YAML or JSON gave it, in the type its parameter is annotated with; nothing is guessed."""
    if parameter.annotation is parameter.empty:
        return value
    text = json.dumps(value, default=str, ensure_ascii=False)
    try:
        return TypeAdapter(parameter.annotation, config=STRICT).validate_json(text)
    except ValidationError:
        allowed, words = _allowed(parameter.annotation)
        hint = did_you_mean(value, words)
        if isinstance(value, str) and "a number" in allowed and NOT_YAML.fullmatch(value):
            hint = f" YAML takes {value} for text; write {float(value)!r}."
    raise AsdError(f"{place}: {parameter.name} {text} is not {allowed}.{hint}")


def _allowed(kind: Any) -> tuple[str, list[str]]:
    """A type in words, and the words it allows if it is a choice."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, parts)), [part for part in parts if isinstance(part, str)]
    if origin in (Union, UnionType):
        told = [_allowed(part) for part in parts]
        return " or ".join(text for text, _ in told), [word for _, words in told for word in words]
    if origin is list:
        return f"a list, each {_allowed(parts[0])[0]}", []
    return WORDS.get(origin or kind, str(kind)), []
