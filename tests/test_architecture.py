"""One rule: a module imports only lower layers, or its own package. Imports inside functions count."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = {
    "mmser": 0,
    "mmser.errors": 0,
    "mmser.units": 0,
    "mmser.checks": 1,
    "mmser.devices": 1,
    "mmser.files": 1,
    "mmser.products": 1,
    "mmser.records": 1,
    "mmser.transcript": 1,
    "mmser.metrics": 1,
    "mmser.manifest": 2,
    "mmser.audio": 2,
    "mmser.pooling": 2,
    "mmser.heads": 2,
    "mmser.statistics": 2,
    "mmser.cache": 3,
    "mmser.corpora": 4,
    "mmser.extract": 4,
    "mmser.train": 4,
    "mmser.ablate": 5,
    "mmser.doctor": 5,
    "mmser.show": 5,
    "mmser.transcribe": 5,
    "mmser.predict": 6,
    "mmser.publish": 6,
    "mmser.report": 6,
    "mmser.api": 7,
    "mmser.demo": 7,
    "mmser.commands": 8,
    "mmser.cli": 9,
    "mmser.__main__": 10,
}


def room_of(module: str) -> str:
    """The layered name that ``module`` belongs to: ``mmser.cache.shard`` -> ``mmser.cache``."""
    return ".".join(module.split(".")[:2])


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, package: str = "mmser") -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] == package]


MODULES = sorted((ROOT / "mmser").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_module_imports_only_lower_layers(path: Path) -> None:
    room = room_of(module_name(path))
    assert room in LAYERS, f"{room} has no layer: add it to LAYERS"
    for name in imports_of(path):
        other = room_of(name)
        if other not in LAYERS:  # "from mmser import __version__"
            other = "mmser"
        assert other == room or LAYERS[other] < LAYERS[room], f"{module_name(path)} imports {name}"


def test_only_the_cache_imports_h5py() -> None:
    users = {module_name(path) for path in MODULES if imports_of(path, "h5py")}
    assert {room_of(user) for user in users} == {"mmser.cache"}


@pytest.mark.parametrize("heavy", ["transformers", "praatio", "pocketsphinx", "soundfile"])
def test_training_never_loads_what_only_extraction_needs(heavy: str) -> None:
    code = f"import sys, mmser.cli, mmser.train; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
