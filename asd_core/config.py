"""Systems and profiles as data: YAML → checked, frozen models. No component is imported here; whether a
component knows its options is checked by `pipeline.check`, which can see the registries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

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


class Constant(Strict):
    """The learning rate stays as it is."""

    name: Literal["constant"] = "constant"


class StepDecay(Strict):
    """The learning rate is multiplied by `factor` after every `epochs` epochs."""

    name: Literal["step"]
    epochs: int = Field(ge=1)
    factor: float = Field(gt=0, le=1)


class Cosine(Strict):
    """The learning rate falls to `lowest` along half a cosine."""

    name: Literal["cosine"]
    lowest: float = Field(default=0.0, ge=0)


SCHEDULES = ("constant", "step", "cosine")


def _named_schedule(value: Any) -> Any:
    """A name alone, as in `schedule: cosine`, stands for that schedule with its defaults."""
    values = {"name": value} if isinstance(value, str) else value
    if isinstance(values, dict) and (name := values.get("name")) not in SCHEDULES:
        guess = did_you_mean(str(name), SCHEDULES)
        raise ValueError(f"a schedule is a name, or {{name: …}}, of {', '.join(SCHEDULES)}.{guess}")
    return values


Schedule = Annotated[Constant | StepDecay | Cosine, Field(discriminator="name")]


class Train(Strict):
    """How a network is trained. A learning rate begins with a linear warm-up from 0, if there is one, and then
    follows the schedule."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)  # examples per step, over all processes
    lr: float = Field(gt=0)
    lr_encoder: float | None = Field(default=None, gt=0)  # of pretrained parameters; default: lr
    layer_decay: float = Field(default=1.0, gt=0, le=1)  # of lr_encoder, per block between a parameter and the output
    schedule: Annotated[Schedule, BeforeValidator(_named_schedule)] = Constant()
    warmup_steps: int | None = Field(default=None, ge=0)
    warmup_epochs: float | None = Field(default=None, ge=0)
    optimizer: Literal["adam", "adamw"] = "adamw"
    weight_decay: float = Field(default=0.01, ge=0)  # of adamw
    accumulate: int = Field(default=1, ge=1)  # parts a batch is computed in, one after the other, to save memory
    clip_norm: float | None = Field(default=None, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    patience: int | None = Field(default=None, ge=1)  # epochs without a better held-out loss; then the best is kept
    ema: float | None = Field(default=None, gt=0, lt=1)  # decay of the averaged weights that are kept
    # auto: bf16 on a GPU that has it; fast: also on a processor that has it
    precision: Literal["auto", "fp32", "bf16", "fast"] = "fp32"
    compile: bool = False  # by torch.compile: a minute or more at first, then quicker steps on a GPU; rounds otherwise

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A training that is not compiled has the digest it had before there was a choice."""
        values = handler(self)
        if values.get("compile") is False:
            del values["compile"]
        return values

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.warmup_steps is not None and self.warmup_epochs is not None:
            raise ValueError("give warmup_steps or warmup_epochs, not both")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate {self.accumulate} would cut a batch of {self.batch_size} into empty parts")
        if isinstance(self.schedule, Cosine) and self.schedule.lowest > self.lr:
            raise ValueError(f"schedule.lowest {self.schedule.lowest:g} is above the learning rate {self.lr:g}")
        return self


class Encoder(Strict):
    """A trained network: what it sees, what it is, what it learns, on whose clips."""

    view: Component
    backbone: Component
    scope: Literal["machine", "dataset"]  # one model per machine, or one for all machines
    objective: Component
    train: Train | None = None  # needed by every objective that trains
    start: Encoder | None = None  # an earlier training whose weights this one starts from
    notice: str = ""  # what everybody who reads its results should know


class Targets(Strict):
    """Which conditions have too few clips, and how many generated ones they get (`synthesis.conditions`)."""

    share: float = Field(default=0.1, ge=0)  # target clips that a machine is to have, of its source clips
    rare: float = Field(default=0.25, ge=0, le=1)  # of the median source condition: what has less is raised to it
    per_clip: int = Field(default=20, ge=1)  # generated clips per recorded one, at most
    counts: dict[str, Annotated[int, Field(ge=0)]] = {}  # by condition, such as "fan|00|target|spd_1": instead


class Network(Strict):
    """The generator's denoiser."""

    widths: list[Annotated[int, Field(ge=32, multiple_of=32)]] = Field(min_length=1)  # channels, finest level first
    layers: int = Field(default=2, ge=1)  # residual blocks per level
    attention: int = Field(default=0, ge=0)  # levels with self-attention, coarsest first
    patch: tuple[Literal[1, 2, 4, 8, 16, 32], Literal[1, 2, 4, 8]] = (16, 2)  # bands × frames that become one place
    # joint: all microphones of a clip at once, a consistent pair; each: one at a time, told which
    microphones: Literal["joint", "each"] = "joint"

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        if self.attention > len(self.widths):
            raise ValueError(f"attention on {self.attention} levels, but widths has {len(self.widths)}")
        if (512 // self.patch[0]) % 2 ** (len(self.widths) - 1):
            raise ValueError(f"512 bands in cells of {self.patch[0]} cannot be halved {len(self.widths) - 1} times")
        return self


class Sampling(Strict):
    """How clips are drawn (DDIM)."""

    steps: int = Field(default=50, ge=1, le=1000)
    eta: float = Field(default=0.0, ge=0, le=1)  # noise added on the way: 0 none, 1 as DDPM
    guidance: float = Field(default=1.0, ge=0)  # 0 forgets all but the spectrum, 1 the model itself, more exaggerates
    batch: int = Field(default=8, ge=1)  # clips drawn together

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if 1000 % self.steps:  # diffusers would step past the places it looks at
            raise ValueError(f"sampling steps must divide 1000, such as 20, 25, 40, 50, 100; got {self.steps}")
        return self


class Judge(Strict):
    """The classifier that screens generated clips, trained on recorded ones."""

    train: Train
    held_out: float = Field(default=0.15, gt=0, lt=1)  # share of each condition that only measures it


class Screening(Strict):
    """Which generated clips are kept (`synthesis.screening`)."""

    agreement: bool = True  # the judge takes it for the condition it was made for
    confidence: tuple[float, float] = (0.5, 0.95)  # of the judge: lower is doubtful, higher too like the known ones
    near_copy: float = Field(default=0.01, ge=0, le=1)  # quantile of distances between recorded clips: nearer is a copy
    level_margin: float = Field(default=5.0, ge=0)  # dB beyond the quietest and the loudest recorded clip
    most: float = Field(default=10.0, ge=1)  # clips drawn per clip wanted, before giving up

    @model_validator(mode="after")
    def _window(self) -> Self:
        low, high = self.confidence
        if not 0 <= low < high <= 1:
            raise ValueError(f"confidence must be [low, high] with 0 ≤ low < high ≤ 1, got {list(self.confidence)}")
        return self


class Listener(Strict):
    """A frozen encoder whose embeddings compare generated with recorded clips."""

    view: Component
    backbone: Component
    output: str
    start: Encoder | None = None  # as of an encoder


class Generator(Strict):
    """A model of normal clips under their conditions, which makes more of the rare ones."""

    name: Name
    title: str
    network: Network
    train: Train
    crop_seconds: float = Field(default=10.0, gt=0)  # of the excerpts it is trained on
    balance: float = Field(default=0.5, ge=0, le=1)  # conditions are drawn in proportion to count^(1 − balance)
    untold: float = Field(default=0.1, ge=0, lt=1)  # share of examples without their condition, for guidance
    sampling: Sampling = Sampling()
    targets: Targets = Targets()
    judge: Judge
    screening: Screening = Screening()
    listener: Listener
    seed: int = Field(default=0, ge=0, le=MAX_SEED)  # of all of it: clips are data, the same for every run


class Synthesis(Strict):
    """Generated clips in a system's training."""

    generator: Generator
    bank: bool = True  # also among the normal clips that scorers compare with


class Branch(Strict):
    """One stream of scores: a view, through an encoder or as it is, into a scorer."""

    name: str
    encoder: str | None = None
    view: Component | None = None  # default: the encoder's
    output: str = "clip"  # which output of the encoder is scored
    scorer: Component
    stream: str | None = None  # scores of branches of one stream are averaged as they are before the fusion
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
    synthesis: Synthesis | None = None
    encoders: dict[str, Encoder] = {}
    branches: list[Branch] = Field(min_length=1)
    fusion: Component = Component(name="weighted")
    decision: Component = Component(name="percentile")
    variants: dict[str, dict[str, Any]] = {}  # what "<name>+<variant>" changes, key by key; a list as a whole

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A system without generated clips says nothing of them, and has the digest it had before there were any."""
        values = handler(self)
        if values.get("synthesis", 0) is None:
            del values["synthesis"]
        return values

    @property
    def streams(self) -> list[tuple[str, list[str]]]:
        """What is fused, in order: the name of a stream and the branches whose scores it averages."""
        streams: dict[str, list[str]] = {}
        for branch in self.branches:
            streams.setdefault(branch.stream or branch.name, []).append(branch.name)
        return list(streams.items())

    @model_validator(mode="after")
    def _branches_fit(self) -> Self:
        names = [branch.name for branch in self.branches]
        if len(set(names)) < len(names):
            raise ValueError(f"branch names must differ, got {', '.join(names)}")
        alone = {branch.name for branch in self.branches if not branch.stream}
        for branch in self.branches:
            if branch.stream in alone:
                raise ValueError(
                    f'the stream of branch "{branch.name}" is called "{branch.stream}", as is a branch: give that one '
                    f"stream: {branch.stream} too if they are to be averaged, or rename one of them"
                )
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
    start: Encoder | None = None  # takes the place of published weights
    outputs: dict[str, str] = {}  # which output of a smaller network stands for which
    notice: str = ""


class Profile(Strict):
    name: Name
    title: str
    encoders: dict[str, Overlay] = {}  # by backbone name
    generators: dict[str, dict[str, Any]] = {}  # by generator, what is changed key by key


def load(model: type[M], path: Path) -> M:
    """Read one YAML file into `model`, or say in the file's own words what is wrong with it."""
    return validate(model, _read(path), str(path))


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AsdError(f"{path} does not exist.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a ValueError: not UTF-8, or the 99th of May
        raise AsdError(f"{path} is not valid YAML: {error}") from error


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
    """A system of configs/systems by name, one of its variants as "<name>+<variant>", or any YAML file by path."""
    if name.endswith((".yaml", ".yml")):
        return _load_system(Path(name))
    base, plus, variant = name.partition("+")
    system = _load_system(_named(CONFIGS / "systems", "system", base))
    if system.name != base:
        raise AsdError(f'configs/systems/{base}.yaml calls itself "{system.name}"; both must agree.')
    return system_variant(system, variant) if plus else system


def _load_system(path: Path) -> System:
    """A system's file; an encoder may be given by the name of the system that spells out one of the same name."""
    values = _read(path)
    encoders = _encoders(values)
    for name, given in encoders.items():
        if isinstance(given, str):
            known = _encoders(_read(_named(CONFIGS / "systems", "system", given)))
            if name not in known:
                raise AsdError(f'{path}: system {given} has no encoder "{name}", only {", ".join(known) or "none"}.')
            if isinstance(known[name], str):
                raise AsdError(
                    f'{path}: system {given} has its encoder "{name}" from {known[name]}; refer to a system that spells '
                    f"it out."
                )
            encoders[name] = known[name]
    return validate(System, _with_named_generator(values), str(path))


def _with_named_generator(values: Any) -> Any:
    """What a system says, with the generator that it names."""
    synthesis = values.get("synthesis") if isinstance(values, dict) else None
    if isinstance(synthesis, dict) and isinstance(synthesis.get("generator"), str):
        return values | {"synthesis": synthesis | {"generator": load_generator(synthesis["generator"])}}
    return values


def generator_names() -> list[str]:
    return sorted(path.stem for path in (CONFIGS / "generators").glob("*.yaml"))


def load_generator(name: str) -> Generator:
    """A generator of configs/generators by name, or any YAML file by path."""
    if name.endswith((".yaml", ".yml")):
        return load(Generator, Path(name))
    return load(Generator, _named(CONFIGS / "generators", "generator", name))


def generator_file(generator: Generator, name: str, counts: Mapping[str, int]) -> str:
    """A YAML file of `generator` as it is, profile included, under another name, so that no profile changes it again.
    It asks for these numbers of clips, by condition, and for no others."""
    values = generator.model_dump(mode="json") | {"name": name}
    values["targets"] |= {"share": 0.0, "rare": 0.0, "counts": dict(counts)}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def with_generator(system: System, generator: Generator) -> System:
    """`system` with another generator; one that uses no generated clips stays as it is."""
    if system.synthesis is None:
        return system
    return system.model_copy(update={"synthesis": system.synthesis.model_copy(update={"generator": generator})})


def resolve_generator(generator: Generator, profile: Profile) -> Generator:
    """`generator` with the profile's changes."""
    changed = _merged(generator.model_dump(), profile.generators.get(generator.name, {}))
    return validate(Generator, changed, f"{generator.name} under profile {profile.name}")


def _encoders(values: Any) -> dict[str, Any]:
    """What a system's file says of its encoders, unchecked."""
    encoders = values.get("encoders") if isinstance(values, dict) else None
    return encoders if isinstance(encoders, dict) else {}


def system_variant(system: System, variant: str) -> System:
    """`system` with the changes of one of its variants."""
    if variant not in system.variants:
        known = ", ".join(system.variants) or "none"
        raise AsdError(
            f'System {system.name} has no variant "{variant}". It has: {known}.'
            + did_you_mean(variant, system.variants)
        )
    values = _merged(system.model_dump(exclude_unset=True), system.variants[variant])
    values |= {"name": f"{system.name}+{variant}", "variants": {}}
    return validate(System, _with_named_generator(values), f"{system.name}+{variant}")


def _merged(values: Any, changes: Any) -> Any:
    """`values` with `changes` key by key, at any depth; another plug-in keeps no option of the one before."""
    if isinstance(values, dict) and isinstance(changes, dict) and changes.get("name") in (None, values.get("name")):
        return values | {key: _merged(values.get(key), change) for key, change in changes.items()}
    return changes


def _stands_for_itself(backbone: dict[str, Any], overlay: Overlay) -> bool:
    """Where a profile replaces published weights: an encoder that asks for none, or for the replacement, stays."""
    return "checkpoint" in overlay.backbone and backbone.get("checkpoint") in (None, overlay.backbone["checkpoint"])


def load_profile(name: str) -> Profile:
    return load(Profile, _named(CONFIGS / "profiles", "profile", name))


def resolve(system: System, profile: Profile) -> System:
    """`system` with the profile's overlays applied; the result is what is hashed and stored."""
    values = system.model_dump() | {"variants": {}}
    if system.synthesis is not None:
        values["synthesis"]["generator"] = resolve_generator(system.synthesis.generator, profile).model_dump()
    for name, encoder in values["encoders"].items():
        overlay = profile.encoders.get(encoder["backbone"]["name"])
        if overlay is None or _stands_for_itself(encoder["backbone"], overlay):
            continue
        for part in ("backbone", "objective", "train"):
            if encoder[part] is not None:
                encoder[part] = _merged(encoder[part], getattr(overlay, part))
        encoder["start"] = overlay.start or encoder["start"]
        if overlay.notice not in encoder["notice"]:
            encoder["notice"] = f"{encoder['notice']} {overlay.notice}".strip()
        for branch in values["branches"]:
            if branch["encoder"] == name:
                branch["output"] = overlay.outputs.get(branch["output"], branch["output"])
    return validate(System, values, f"{system.name} under profile {profile.name}")
