"""Systems and profiles, as configs/ holds them."""

from __future__ import annotations

from asd_core import config
from asd_core.types import AsdError


def systems() -> dict[str, config.System | AsdError]:
    """Every system of configs/systems by name, its variants after it; what is invalid stands there as its error."""
    found: dict[str, config.System | AsdError] = {}
    for name in config.system_names():
        try:
            found[name] = system = config.load_system(name)
        except AsdError as error:
            found[name] = error
            continue
        for variant in system.variants:
            try:
                found[f"{name}+{variant}"] = config.system_variant(system, variant)
            except AsdError as error:
                found[f"{name}+{variant}"] = error
    return found


def system_yaml(name: str, profile: str | None = None) -> str:
    """The system's file as it was written, or resolved under a profile."""
    import yaml

    system = config.load_system(name)
    if profile is None:
        return (config.CONFIGS / "systems" / f"{name.partition('+')[0]}.yaml").read_text()
    resolved = config.resolve(system, config.load_profile(profile))
    return yaml.safe_dump(resolved.model_dump(exclude_defaults=True), sort_keys=False, allow_unicode=True)


def profiles() -> dict[str, config.Profile]:
    names = sorted(path.stem for path in (config.CONFIGS / "profiles").glob("*.yaml"))
    return {name: config.load_profile(name) for name in names}
