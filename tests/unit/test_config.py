"""Configuration files: whatever is wrong in one is said, and names that become folders cannot lead elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

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
