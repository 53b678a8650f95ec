"""Systems and profiles as data: YAML → checked, frozen models. No component is imported here; whether a
component knows its options is checked by `pipeline.check`, which can see the registries."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from asd_core.registry import did_you_mean
from asd_core.types import AsdError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SAFE_NAME = re.compile(r"(?!\.)[\w .+-]{1,64}")
NAME_RULE = "a name may hold letters, digits, spaces and . _ + -, at most 64 of them, and must not begin with a dot"


def _safe(name: str) -> str:
    if not SAFE_NAME.fullmatch(name):
        raise ValueError(NAME_RULE)
    return name


Name = Annotated[str, AfterValidator(_safe)]  # of what gets a folder in the workspace
MAX_SEED = 2**32 - 1  # what NumPy takes

M = TypeVar("M", bound="Strict")


class Strict(BaseModel):
    """A frozen model that names an unknown key, what is allowed, and the nearest allowed word."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if isinstance(values, dict) and cls.model_config.get("extra") == "forbid":
            for key in values:
                if key not in cls.model_fields:
                    allowed = ", ".join(cls.model_fields)
                    raise ValueError(f'unknown key "{key}". Allowed: {allowed}.{did_you_mean(key, cls.model_fields)}')
        return values


class Component(BaseModel):
    """A plug-in by name with its constructor's options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def spec(self) -> dict[str, Any]:
        return self.model_dump()


class Report(Strict):
    """Where a system comes from and what its report measured."""

    team: str
    system: int
    metric: Literal["official", "domain_restricted"]
    hmean: float | None = None  # percent, as printed in the report
    title: str = ""


class Train(Strict):
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lr: float = Field(gt=0)
    optimizer: Literal["adam", "adamw"] = "adamw"
    weight_decay: float = Field(default=0.01, ge=0)  # of adamw
    clip_norm: float | None = Field(default=None, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    ema: float | None = Field(default=None, gt=0, lt=1)  # decay of the averaged weights that are kept
    precision: Literal["auto", "fp32", "bf16"] = "fp32"  # auto: bf16 on a GPU that has it


class Encoder(Strict):
    """A trained network: what it sees, what it is, what it learns, on whose clips."""

    view: Component
    backbone: Component
    scope: Literal["machine", "dataset"]  # one model per machine, or one for all machines
    objective: Component
    train: Train


class Branch(Strict):
    """One stream of scores: a view, through an encoder or as it is, into a scorer."""

    name: str
    encoder: str | None = None
    view: Component | None = None  # default: the encoder's
    output: str = "clip"  # which output of the encoder is scored
    scorer: Component
    # added to the run's seed, so that a system may hold several trainings
    seed: int = Field(default=0, ge=0, le=MAX_SEED)

    @model_validator(mode="after")
    def _has_input(self) -> Self:
        if self.encoder is None and self.view is None:
            raise ValueError(f'branch "{self.name}" needs an encoder, a view, or both')
        return self


class System(Strict):
    name: Name
    title: str
    idea: str  # one line for a table
    family: str  # heading it is listed under
    report: Report | None = None
    encoders: dict[str, Encoder] = {}
    branches: list[Branch] = Field(min_length=1)
    fusion: Component = Component(name="weighted")
    decision: Component = Component(name="percentile")

    @model_validator(mode="after")
    def _branches_fit(self) -> Self:
        names = [branch.name for branch in self.branches]
        if len(set(names)) < len(names):
            raise ValueError(f"branch names must differ, got {', '.join(names)}")
        for branch in self.branches:
            if branch.encoder is not None and branch.encoder not in self.encoders:
                raise ValueError(
                    f'branch "{branch.name}" asks for encoder "{branch.encoder}"; this system has '
                    f"{', '.join(self.encoders) or 'none'}.{did_you_mean(branch.encoder, self.encoders)}"
                )
        return self


class Overlay(Strict):
    """What a profile changes for one backbone; keys of the parts it leaves alone stay as they are."""

    backbone: dict[str, Any] = {}
    objective: dict[str, Any] = {}
    train: dict[str, Any] = {}


class Profile(Strict):
    name: Name
    title: str
    encoders: dict[str, Overlay] = {}  # by backbone name


def load(model: type[M], path: Path) -> M:
    """Read one YAML file into `model`, or say in the file's own words what is wrong with it."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AsdError(f"{path} does not exist.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a ValueError: not UTF-8, or the 99th of May
        raise AsdError(f"{path} is not valid YAML: {error}") from error
    return validate(model, values, str(path))


def validate(model: type[M], values: Any, where: str) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for e in error.errors():
            place = ".".join(str(part) for part in e["loc"])
            got = "" if isinstance(e["input"], dict | list) or e["type"] == "missing" else f" (got {e['input']!r})"
            lines.append(f"  {place or '(top)'}: {e['msg'].removeprefix('Value error, ')}{got}")
        raise AsdError(f"{where} is not a valid {model.__name__.lower()}:\n" + "\n".join(lines)) from error


def _named(folder: Path, kind: str, name: str) -> Path:
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise AsdError(f'There is no {kind} "{name}". Known: {", ".join(known)}.{did_you_mean(name, known)}')
    return folder / f"{name}.yaml"


def system_names() -> list[str]:
    return sorted(path.stem for path in (CONFIGS / "systems").glob("*.yaml"))


def load_system(name: str) -> System:
    """A system of configs/systems by name, or any YAML file by path."""
    if name.endswith((".yaml", ".yml")):
        return load(System, Path(name))
    system = load(System, _named(CONFIGS / "systems", "system", name))
    if system.name != name:
        raise AsdError(f'configs/systems/{name}.yaml calls itself "{system.name}"; both must agree.')
    return system


def load_profile(name: str) -> Profile:
    return load(Profile, _named(CONFIGS / "profiles", "profile", name))


def resolve(system: System, profile: Profile) -> System:
    """`system` with the profile's overlays applied; the result is what is hashed and stored."""
    values = system.model_dump()
    for encoder in values["encoders"].values():
        overlay = profile.encoders.get(encoder["backbone"]["name"])
        if overlay is not None:
            for part in ("backbone", "objective", "train"):
                encoder[part].update(getattr(overlay, part))
    return validate(System, values, f"{system.name} under profile {profile.name}")
