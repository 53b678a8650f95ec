"""Configuration files: whatever is wrong in one is said, and names that become folders cannot lead elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from asd_core import config
from asd_core.config import MAX_SEED, Profile, System, load, load_profile, load_system, system_names, validate
from asd_core.types import AsdError

SYSTEM = {
    "name": "mine",
    "title": "Mine",
    "idea": "One branch.",
    "family": "Tests",
    "branches": [{"name": "a", "view": {"name": "logmel_statistics"}, "scorer": {"name": "knn"}}],
}


def test_what_is_delivered_is_valid() -> None:
    assert [load_system(name).name for name in system_names()] == system_names()
    assert load_profile("quick").name == "quick"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1: x", r'unknown key "1"\. Allowed: name,'),
        ("no: x", r'unknown key "False"\. Allowed: name,'),
        ("branches: [{name: a, 1: x}]", r'branches\.0: unknown key "1"'),
        ("branches: [{name: a, scorer: {name: knn, 2: x}}]", "branches.0.scorer"),
        ("encoders: {1: {}}", r"encoders\.1"),
        ("- a", "is not a valid system"),
        ("", "is not a valid system"),
        ("name: [", "is not valid YAML"),
        ("name: 2026-99-99", "is not valid YAML"),
        ("[" * 5000, "is not valid YAML"),
    ],
)
def test_odd_yaml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(AsdError, match=message):
        load(System, tmp_path / "s.yaml")


def test_yaml_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes("title: Lüfter".encode("latin-1"))
    with pytest.raises(AsdError, match=r"s\.yaml is not valid YAML: .*utf-8"):
        load(System, tmp_path / "s.yaml")
    (tmp_path / "s.yaml").write_bytes(yaml.safe_dump(SYSTEM | {"title": "Lüfter"}, allow_unicode=True).encode())
    assert load(System, tmp_path / "s.yaml").title == "Lüfter"


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/b", "a\\b", "..", ".a", "", "a\n", "x" * 65])
def test_names_that_lead_elsewhere(name: str) -> None:
    with pytest.raises(AsdError, match="name: a name may hold letters, digits"):
        validate(System, SYSTEM | {"name": name}, "it")
    with pytest.raises(AsdError, match="name: a name may hold letters, digits"):
        validate(Profile, {"name": name, "title": "x"}, "it")


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seed_of_a_branch(seed: int) -> None:
    with pytest.raises(AsdError, match=r"branches\.0\.seed: .*(greater|less) than or equal"):
        validate(System, SYSTEM | {"branches": [SYSTEM["branches"][0] | {"seed": seed}]}, "it")


@pytest.mark.parametrize("order", [1, -1])
def test_a_branch_is_not_averaged_into_a_stream_by_its_name_alone(order: int) -> None:
    first = SYSTEM["branches"][0]
    branches = [first, first | {"name": "b", "stream": "a"}][::order]
    with pytest.raises(AsdError, match=r'stream of branch "b" is called "a", as is a branch.*stream: a'):
        validate(System, SYSTEM | {"branches": branches}, "it")
    together = validate(
        System, SYSTEM | {"branches": [first | {"stream": "a"}, first | {"name": "b", "stream": "a"}]}, "it"
    )
    assert len(together.streams) == 1
    apart = [first | {"stream": "z"}, first | {"name": "b", "stream": "a"}]
    assert validate(System, SYSTEM | {"branches": apart}, "it").streams == [("z", ["a"]), ("a", ["b"])]


ENCODER = {
    "view": {"name": "waveform"},
    "backbone": {"name": "multiresnet"},
    "scope": "dataset",
    "objective": {"name": "classification", "labels": "section"},
    "train": {"epochs": 1, "batch_size": 8, "lr": 0.001},
}


@pytest.fixture
def systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of systems: "mine" spells its encoder out, "other" takes it from there."""
    monkeypatch.setattr(config, "CONFIGS", tmp_path)
    branches = [{"name": "a", "encoder": "net", "scorer": {"name": "knn"}}]
    (tmp_path / "systems").mkdir()
    for name, encoder in (("mine", ENCODER), ("other", "mine")):
        values = SYSTEM | {"name": name, "encoders": {"net": encoder}, "branches": branches}
        (tmp_path / "systems" / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "systems"


def test_an_encoder_given_by_the_system_that_has_it(systems: Path) -> None:
    assert load_system("other").encoders == load_system("mine").encoders


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ({"net": "mime"}, 'There is no system "mime".*Did you mean "mine"'),
        ({"beats": "mine"}, 'system mine has no encoder "beats", only net'),
        ({"net": "other"}, 'system other has its encoder "net" from mine; refer to a system that spells it out'),
        ({"net": "third"}, 'system third has its encoder "net" from third'),
        ({"net": ["mine"]}, r"encoders\.net"),
    ],
)
def test_a_reference_that_leads_nowhere(systems: Path, encoders: dict, message: str) -> None:
    branches = [{"name": "a", "encoder": next(iter(encoders)), "scorer": {"name": "knn"}}]
    values = SYSTEM | {"name": "third", "encoders": encoders, "branches": branches}
    (systems / "third.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(AsdError, match=message):
        load_system("third")
