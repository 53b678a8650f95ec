"""One look at the disk for all that is drawn together.

What readers remember is as old as its files, so each of them first looks at folders and files. A page asks dozens of
readers for one view; within a moment they share what the first of them saw, and all of them speak of the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

_Asked = ParamSpec("_Asked")
_Told = TypeVar("_Told")
_seen: ContextVar[dict[Hashable, object] | None] = ContextVar("seen", default=None)


@contextmanager
def moment() -> Iterator[None]:
    """As long as this lasts, here and in nothing that runs beside it, readers `once_a_moment` look once. A moment
    within another is part of it. To be kept short: what changes meanwhile is not seen."""
    if _seen.get() is not None:
        yield
        return
    before = _seen.set({})
    try:
        yield
    finally:
        _seen.reset(before)


def once_a_moment(read: Callable[_Asked, _Told]) -> Callable[_Asked, _Told]:
    """A reader of the disk that within a moment gives the same answer to the same, hashable, arguments. The answer is
    shared: do not change it. An exception is no answer."""

    @wraps(read)
    def ask(*args: _Asked.args, **kwargs: _Asked.kwargs) -> _Told:
        seen = _seen.get()
        if seen is None:
            return read(*args, **kwargs)
        question = (read, args, tuple(sorted(kwargs.items())))
        if question not in seen:
            seen[question] = read(*args, **kwargs)
        return seen[question]  # type: ignore[return-value]

    return ask
