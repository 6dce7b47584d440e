"""Imports only go down, and light modules stay light."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import segsweep

ROOT = Path(segsweep.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A module may import from lower floors and from its own package, nothing else of ours.
FLOORS = {
    "types": 0, "rng": 0, "signals": 0, "hints": 0, "allocator": 0, "counting": 0, "journal": 0, "sharing": 0,
    "halving": 0, "kernels": 0, "startup": 0,
    "models": 1, "losses": 1, "metrics": 1, "tiling": 1, "features": 1, "augment": 1, "schedulers": 1, "hardware": 1,
    "cost": 1, "means": 1, "stacking": 1, "pictures": 1, "files": 1, "endings": 1, "study": 1, "curves": 1, "layout": 1,
    "channels": 1, "origin": 1, "redaction": 1,
    "objectives": 2, "readout": 2, "events": 2, "confusion": 2, "tally": 2,
    "regime": 3, "table": 3,
    "freezing": 4, "data": 4, "guard": 4, "averaging": 4, "compiling": 4,
    "staged": 5, "checkpoints": 5, "floors": 5, "strategies": 5,
    "task": 6,
    "callbacks": 7, "shortcuts": 7, "panels": 7, "label_panels": 7, "projector": 7, "pruning": 7, "board": 7,
    "stacked": 7,
    "run": 8,
    "contained": 9,
    "tensors": 10,
    "initial": 11,
    "config": 12,
    "signatures": 13, "arguments": 13, "composer": 13, "rank": 13,
    "check_sharing": 13, "check_stacking": 13, "check_initial": 13,
    "trials": 14,
    "check": 15,
    "sweep": 16, "inspection": 16, "state": 16,
    "refused": 16,
    "command": 17, "ranks": 17, "report": 17, "axes": 17,
    "drafts": 18, "doctor": 18, "images": 18, "opened": 18, "claims": 18,
    "plan": 19, "inference": 19, "fitting": 19,
    "train": 20,
    "together": 21,
    "launcher": 22,
    "sweeper": 23, "search": 23,
    "__main__": 24,
    "evaluate": 25,
    "export": 25,
    "predict": 25,
    "explain": 25,
}  # fmt: skip
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "segmentation_models_pytorch",
    "pytorch_lightning",
    "torchmetrics",
    "numpy",
    "scipy",
    "sklearn",
    "matplotlib",
    "pydantic",
    "jinja2",
}
DOOR = {"segmentation_models_pytorch", "timm", "huggingface_hub"}


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def imports(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_only_go_down(file):
    own = name_of(file)
    if own == "__init__":
        return
    for imported in imports(file):
        parts = imported.split(".")
        if parts[0] != "segsweep":
            continue
        other = parts[1]
        if other == "CONF_DIR":
            continue
        assert other == own or FLOORS[other] < FLOORS[own], f"{own} imports {other}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_hydra_stays_at_the_top(file):
    uses = {name.split(".")[0] for name in imports(file)} & {"hydra", "omegaconf"}
    assert not uses or name_of(file) in (
        *("config", "signatures", "trials", "check", "inspection", "arguments", "refused", "command", "train"),
        *("composer", "axes", "drafts", "launcher", "sweeper", "search", "together"),
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_models_and_losses_need_torch_alone(file):
    if name_of(file) in ("models", "losses"):
        third = {name.split(".")[0] for name in imports(file)} - set(sys.stdlib_module_names) - {"segsweep"}
        assert third <= {"torch", "annotated_types"} | (DOOR if file.parent.name == "smp" else set())


def test_the_door_to_smp_is_opened_where_a_model_is_built():
    code = "import sys, segsweep.models.smp; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "segsweep.models.smp" in loaded
    assert DOOR.isdisjoint(loaded)


LIGHT = [
    "run",
    "origin",
    "redaction",
    "arguments",
    "refused",
    "files",
    "events",
    "table",
    "signals",
    "endings",
    "hints",
    "report.runs",
    "report.command",
    "explain.command",
    "export.command",
    "report.label_efficiency",
    "report.compression",
    "report.readout",
    "report.search",
    "report.page",
    "search",
    "config",
    "command",
    "train",
    "launcher",
    "sweep",
    "sweep.pool",
    "sweep.progress",
    "doctor",
    "__main__",
    "predict",
    "predict.command",
    "predict.names",
    "images",
    "images.inputs",
    "images.options",
    "contained",
    "initial",
]


def test_light_modules_import_nothing_heavy():
    """One after another in one process: what is heavy stays there, and the last module has brought it."""
    code = """import importlib, sys
for module in sys.argv[1].split():
    importlib.import_module(f"segsweep.{module}")
    if heavy := set(sys.argv[2].split()) & sys.modules.keys():
        sys.exit(f"segsweep.{module} imports {heavy}")"""
    command = [sys.executable, "-c", code, " ".join(LIGHT), " ".join(HEAVY)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_run_is_standard_library_only():
    third = {name.split(".")[0] for name in imports(ROOT / "run.py")} - set(sys.stdlib_module_names)
    assert third == {"segsweep"}


def test_nobody_asserts_on_user_input():
    for file in FILES:
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(file.read_text()))), file


def test_only_config_instantiates():
    for file in FILES:
        if any(name.endswith("utils.instantiate") for name in imports(file)):
            assert file.name == "config.py"
