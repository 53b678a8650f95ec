"""The files that checkpoints come in: torch.save's archives and pickles, and safetensors → tensors by name.

Whatever a file holds, none of it is run, nothing is made that is much larger than the file, and what cannot be used is
refused in words. Text from a file enters a message only through `some`, `told` and `refusal`.
"""

from __future__ import annotations

import json
import pickletools
import re
import reprlib
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from asd_core.types import AsdError, printable

REFUSED = re.compile(r"GLOBAL ([\w.]+)")  # in the messages of torch.load
MOST = 4  # names in a message
LONGEST = 80  # characters of a name in a message


@dataclass
class Content:
    """What a file holds."""

    tensors: dict[str, Tensor]  # by the names in the file, on the CPU; without values they may be on the meta device
    top: Mapping[Any, Any]  # what stands beside the weights
    names: dict[str, str] = field(default_factory=dict)  # canonical → in the file


def open_file(path: Path, values: bool) -> Content:
    """Tensors by name; without `values` those of safetensors have shapes only.

    Raises:
        AsdError: no such file, of another format, damaged, too large for its size, or it asks for code to be run.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise AsdError(
            f"{path} does not exist. `python -m asd_core weights list` tells where checkpoints go."
        ) from None
    except IsADirectoryError:
        raise AsdError(f"{path} is a folder, not a checkpoint. Give the file inside it.") from None
    if not head:
        raise refusal(path, "the file is empty.")
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        size = re.search(rb"^size (\d+)", head, re.MULTILINE)
        of = f" of {int(size[1]):,} bytes" if size else ""
        raise refusal(
            path,
            f"it is a Git LFS pointer, a note of {path.stat().st_size} bytes that stands for the file{of}.",
            "Run `git lfs pull` in the repository that it is from, or download the file itself.",
        )
    if head.startswith(b"PK"):
        return _from_pickle(path, zipped=_check_zip(path))
    if len(head) > 8 and head[8:9] == b"{":
        return _from_safetensors(path, values)
    if head.startswith(b"\x80"):
        return _from_pickle(path, zipped=False)
    if re.match(rb"\s*(<!doctype|<html|<head|<\?xml|<error)", head, re.IGNORECASE):
        raise refusal(
            path,
            "it is a web page, saved in place of the file: the link led to a login, an error or a viewer.",
            "Open the link in a browser and use the page's own download button.",
        )
    raise refusal(path, f"it is neither a file of torch.save nor safetensors; it begins with {head[:24]!r}.")


def _check_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as bundle:
            entries = bundle.infolist()
    except zipfile.BadZipFile:
        size = path.stat().st_size
        raise refusal(
            path,
            f"it begins like a file of torch.save, but after {size:,} bytes its end is missing: it was not "
            "received completely.",
        ) from None
    names = [entry.filename for entry in entries]
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        raise refusal(
            path,
            f"it is a zip archive of {some(names)}, which torch.save did not write.",
            "If a checkpoint is packed inside, unpack it and give that file.",
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise refusal(path, "it is compressed, as torch.save never does; it was packed anew.")
    return True


def _from_pickle(path: Path, zipped: bool) -> Content:
    try:
        # by its path, so that it can be mapped; but torch.load takes a path with this ending for safetensors
        misnamed = path.name.endswith(".safetensors")
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # of a newer pickle protocol, before the error about it
            top = torch.load(
                file if misnamed else path, map_location="cpu", weights_only=True, mmap=zipped and not misnamed
            )
    except Exception as error:  # a damaged or hostile pickle may raise anything
        wanted = {*REFUSED.findall(str(error)), *_imports(path, zipped)}  # the error names the first only
        if wanted:
            raise refusal(
                path,
                f"it asks for {some(sorted(wanted))}, and a checkpoint may hold only tensors and plain "
                "values: anything else could run code. Nothing was run. It was tampered with, or saved with "
                "objects of the program that trained it.",
                "Take the file from its authors; of EAT the one on Hugging Face (model.safetensors).",
            ) from error
        reason = str(error).partition("WeightsUnpickler error: ")[2] or str(error) or type(error).__name__
        first = reason.strip().partition("\n")[0]
        raise refusal(path, f"its content is damaged ({short(first)}).") from error
    if not isinstance(top, dict):
        raise refusal(path, f"it holds one {type(top).__name__}, not named weights.")
    state = top["model"] if isinstance(top.get("model"), dict) else top
    found = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not found:
        raise refusal(path, f"it holds no weights by name, but {some(map(_key, top)) or 'nothing'}.")
    odd = [_key(name) for name in state if name not in found and name != "_ema"]
    if odd and state is not top:
        raise refusal(path, f"among its weights, {some(odd)} are no tensors.")
    return Content(_plain(path, found), {} if state is top else top)


def _key(name: object) -> str:
    return name if isinstance(name, str) else reprlib.repr(name)


def _plain(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers as tensors of the simplest kind. What the others could do is decided by their kind alone."""
    plain = {}
    for name, value in tensors.items():
        simple = type(value) in (Tensor, torch.nn.Parameter) and value.layout is torch.strided and not value.is_nested
        if not simple or value.is_quantized or value.device.type != "cpu":
            raise refusal(path, f"{short(name)} is not stored as plain numbers, as those of all published weights are.")
        plain[name] = Tensor.detach(value)  # leaves behind attributes that a pickle may have given it
    needed, there = sum(value.numel() * value.element_size() for value in plain.values()), path.stat().st_size
    if needed > 2 * there:  # shared tables count twice
        raise refusal(path, f"its tensors would fill {needed:,} bytes, but the file has {there:,}.")
    return plain


def _imports(path: Path, zipped: bool) -> list[str]:
    """What a pickle would import beyond PyTorch's own, told from its instructions without following them."""
    found, words = set(), ["", ""]
    with suppress(Exception), ExitStack() as stack:  # where it is damaged, what stands before
        if zipped:
            bundle = stack.enter_context(zipfile.ZipFile(path))
            inside = next(name for name in bundle.namelist() if name.rpartition("/")[2] == "data.pkl")
            stream = stack.enter_context(bundle.open(inside))
        else:
            stream = stack.enter_context(path.open("rb"))  # of several pickles; then come the tensors
        while True:
            for instruction, argument, _ in pickletools.genops(stream):
                if "UNICODE" in instruction.name:
                    words = [*words[-1:], str(argument)]
                elif instruction.name == "GLOBAL":
                    found.add(str(argument).replace(" ", "."))
                elif instruction.name == "STACK_GLOBAL":
                    found.add(".".join(words))
    return sorted(name for name in found if not name.startswith(("torch.", "collections.", "_codecs.")))


def _from_safetensors(path: Path, values: bool) -> Content:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            top = _stated(file.metadata())
            if values:
                return Content({name: file.get_tensor(name) for name in names}, top)
            # no values: shapes alone, under a type that passes for weights
            shapes = {name: file.get_slice(name).get_shape() for name in names}
            return Content({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, top)
    except Exception as error:  # safetensors has errors of its own, and a header may hold anything
        size, announced = path.stat().st_size, _announced_size(path)
        if announced is not None and size < announced:
            raise refusal(
                path, f"it ends after {size:,} of {announced:,} bytes: it was not received completely."
            ) from error
        raise refusal(path, f"it begins like safetensors, but is damaged ({short(str(error))}).") from error


def _stated(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """What a safetensors file says of itself: the configuration, as JSON under "cfg" (our own files have it)."""
    text = (metadata or {}).get("cfg")
    found = None if text is None else json.loads(text)
    return {"cfg": found} if isinstance(found, dict) else {}


def _announced_size(path: Path) -> int | None:
    """Bytes that a safetensors file should have, by its header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            return length + 8 if length < 100_000_000 else None  # safetensors' own limit
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return 8 + length + max(ends, default=0)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None


# ------------------------------------------------------------------ words


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turns whatever else goes wrong with a file's content into a refusal: it may hold anything."""
    try:
        yield
    except (AsdError, OSError):
        raise
    except Exception as error:
        raise refusal(path, f"its content makes no sense ({type(error).__name__}: {short(str(error))}).") from error


def refusal(path: Path, why: str, advice: str = "") -> AsdError:
    advice = advice or "Get it again; `python -m asd_core weights list` tells where from."
    return AsdError(f"{path} cannot be used as a checkpoint: {why} {advice}")


def some(names: Iterable[str]) -> str:
    """The first of many names from a file, shortened."""
    listed = [*names]
    more = f" and {len(listed) - MOST} more" if len(listed) > MOST else ""
    return ", ".join(map(short, listed[:MOST])) + more


def short(name: str) -> str:
    """A text from a file, on one line."""
    name = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return printable(name).replace("\n", "�")


def told(value: Any) -> str:
    """A value from a file, in quotes if it is text; `repr` would follow hostile nesting to the end."""
    return short(reprlib.repr(value))
