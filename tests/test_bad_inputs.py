"""Bad data through the real command: it stops in one line that names file and fix, or does what is declared."""

import csv
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from segsweep import config, cost
from segsweep.__main__ import main
from segsweep.run import read_record
from tests.bad_inputs import CASES, Stop, Tree, Works, read_history

SETTINGS = [
    "data=folder",
    "data.num_classes=3",
    "data.class_names=[a,b,c]",
    "data.size=[32,32]",
    "data.batch_size=4",
    "model=unet",
    "model.widths=[4,8]",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=1",
    "trainer.enable_progress_bar=false",
]
REACHED = "first step"  # status of a run that would now take it


class FirstStepError(BaseException):
    """Ends a run where training would begin; no ``Exception``, so that nobody reports it as a mistake."""


class Result:
    """What one command left behind."""

    def __init__(self, status, output, folder, data):
        self.status, self.output, self.folder, self.data = status, output, folder, data
        lines = [line.removeprefix("error: ") for line in output.splitlines() if re.match(r"error: |E-[A-Z]+ ", line)]
        self.errors = [line for line in lines if line]

    @property
    def store(self):
        return self.data.store

    @property
    def source(self):
        return self.data.source

    @property
    def record(self):
        return read_record(self.folder)

    @property
    def history(self):
        return read_history(self.folder)

    @property
    def log(self):
        return (self.folder / "log.txt").read_text()

    def facts(self, split):
        return self.store.facts()[split]

    def training_batch(self):
        return next(iter(self.data.train_dataloader()))


@pytest.fixture
def tree(tmp_path, monkeypatch):
    return Tree(tmp_path / "data", monkeypatch)


@pytest.fixture
def command(tmp_path, monkeypatch, capfd, record_property, in_process):
    """``command(*overrides)`` runs ``segsweep`` in this process; without ``is_trained`` it ends at the first step."""
    import pytorch_lightning as pl

    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(cost, "inference_speed", lambda *_: 1.0)  # these two take time and say nothing about data
    monkeypatch.setattr(cost, "count_flops", lambda *_: 1)
    monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: None)  # composes once more, to see whether this is a sweep
    built, fit = [], pl.Trainer.fit
    build_data = config.build_data
    monkeypatch.setattr(config, "build_data", lambda plain: built.append(build_data(plain)) or built[-1])

    def reached(*_, **__):
        raise FirstStepError

    def run(*overrides, is_trained=False):
        monkeypatch.setattr(pl.Trainer, "fit", fit if is_trained else reached)
        monkeypatch.setattr(sys, "argv", ["segsweep", *SETTINGS, f"data.root='{tmp_path / 'data'}'", *overrides])
        before = set(place.glob("outputs/runs/*"))
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
        except FirstStepError:
            status = REACHED
        captured = capfd.readouterr()
        output = captured.out + captured.err
        if "Traceback" in output:
            record_property("traceback", 1)
        assert "Traceback" not in output
        named = [Path("outputs/runs") / o.removeprefix("name=") for o in overrides if o.startswith("name=")]
        folder = next(iter(named or set(place.glob("outputs/runs/*")) - before), None)
        return Result(status, output, folder, built[-1] if built else None)

    return run


def refuse(result, stops):
    """Asserts that the run stopped before the first step, with one line for each of ``stops``; returns the lines."""
    assert result.status == 1, result.output
    assert len(result.errors) == len(stops), result.output
    assert not list(Path.cwd().rglob("metrics.jsonl"))
    if result.folder:
        assert result.record["status"] == "failed"
        assert result.record["error"] == {"class": "data", "message": "\n".join(result.errors)}
    lines = []
    for stop in stops:
        start = f"{stop.code} {stop.where}".lstrip()
        matching = [line for line in result.errors if line.startswith(start)]
        assert len(matching) == 1, (start, result.errors)
        for text in stop.says:
            assert text in matching[0]
        lines += matching
    return lines


def printed_fixes(line):
    """The overrides that a message proposes, as a shell hands them on when they are copied with their quotes."""
    proposed = line.partition(". ")[2].partition(" Likewise: ")[0]
    quoted = r"""'data\.[^']*'(?:"'"'[^']*')*"""
    fixes = re.findall(quoted, proposed)
    bare = re.findall(r"data\.[\w.]+=(?!\.\.\.)\S*[^\s).,;:?]", re.sub(quoted, "", proposed))
    for fix in bare:
        assert shlex.quote(fix) == fix, f"{fix} is not quoted in {line}"
    return [word for fix in [*fixes, *bare] for word in shlex.split(fix)]


def quick_first(cases, kind_of):
    """Of those that are alike the first is quick."""
    kinds, params = set(), []
    for case in cases:
        kind = kind_of(case)
        params.append(pytest.param(case, id=str(case), marks=[pytest.mark.slow] * (kind in kinds)))
        kinds.add(kind)
    return params


def overrides_of(case, tree):
    return [o.replace("ROOT/..", str(tree.root.parent)).replace("ROOT", str(tree.root)) for o in case.overrides]


@pytest.mark.parametrize("case", quick_first(CASES, lambda case: case.row))
def test_bad_input(case, tree, command):
    case.spoil(tree)
    overrides = overrides_of(case, tree)
    if isinstance(case.outcome, Works):
        result = command(*overrides, is_trained=case.outcome.is_trained)
        assert result.status == (0 if case.outcome.is_trained else REACHED), result.output
        assert not result.errors
        for note in case.outcome.notes:
            assert len([line for line in result.log.splitlines() if note in line]) == 1, (note, result.log)
        case.outcome.effect(result)
        return
    lines = refuse(command(*overrides), case.outcome)
    for line in lines:
        for fix in printed_fixes(line):
            assert OverridesParser.create().parse_override(fix).key_or_group.startswith("data."), line


CURABLE = [c for c in CASES if not isinstance(c.outcome, Works) and len(c.outcome) == 1 and c.outcome[0].cures]


@pytest.mark.slow
@pytest.mark.parametrize("case", CURABLE)
def test_what_a_message_suggests_helps(case, tree, command):
    case.spoil(tree)
    overrides = overrides_of(case, tree)
    lines = refuse(command(*overrides), case.outcome)
    for cure in case.outcome[0].cures:
        cured = command(*overrides, *cure.overrides(lines[0]))
        assert cured.status == REACHED, f"{cure} does not help: {cured.output}"


@pytest.mark.parametrize("row", [pytest.param(44, id="row-44-nothing-is-unpacked")])
def test_an_archive_leaves_nothing_behind(row, tree, command, tmp_path):
    (case,) = [case for case in CASES if case.row == row]
    case.spoil(tree)
    before = sorted(tmp_path.rglob("*"))
    refuse(command(f"data.root={tree.root}/data.zip"), case.outcome)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("_row", [pytest.param(45, id="row-45-data-changed-since-the-run")])
def test_a_run_is_not_continued_on_other_data(_row, tree, command):
    first = command("name=x", is_trained=True)
    assert first.status == 0, first.output
    record = {**first.record, "status": "interrupted"}
    (first.folder / "record.json").write_text(json.dumps(record))
    epochs = first.history
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tree.mask())
    second = command("name=x", is_trained=True)
    assert second.status == 1
    (line,) = [line for line in second.output.splitlines() if "was started on other data" in line]
    assert f"fingerprint {record['data']['fingerprint'][:12]}, now " in line
    assert "Restore them, or choose another name=" in line
    assert second.record["status"] == "failed"
    assert second.record["error"]["class"] == "config"
    assert second.history == epochs
    (second.folder / "record.json").write_text(json.dumps({**second.record, "status": "interrupted"}))
    third = command("name=x", is_trained=True)  # the refusal has not made it forget
    assert "was started on other data" in third.output
    assert third.history == epochs


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        pytest.param("strange-names", r"\s+[\d.]+\s+[\d.]+\s+[\d.]+\s+6\s+2\s+2", id="row-21-names-in-a-table"),
        pytest.param("class-only-in-train", r"\s+[\d.]+\s+absent\s+absent\s+6\s+0\s+0", id="row-35-classes-in-a-table"),
    ],
)
def test_segsweep_data_lists_it(name, cells, tree, command, monkeypatch, capfd):
    from segsweep.doctor import main as doctor

    next(case for case in CASES if case.name == name).spoil(tree)
    monkeypatch.setattr(sys, "argv", ["segsweep-data", *SETTINGS[:5], f"data.root='{tree.root}'", "--out", "look"])
    with pytest.raises(SystemExit) as end:
        doctor()
    printed = capfd.readouterr().out
    assert end.value.code == 0, printed
    with open("look/data_report.csv", newline="", encoding="utf-8") as file:
        names = [line["name"] for line in csv.DictReader(file)]
    assert sorted(names) == sorted(
        path.relative_to(tree.root).with_suffix("").as_posix() for path in tree.root.glob("images/*/*")
    )
    assert re.search(rf"^ *c{cells}$", printed, re.MULTILINE), printed  # share in each split, images in each split


def test_every_row_has_a_case():
    assert {case.row for case in CASES} | {45} == set(range(1, 48))
    assert len({str(case) for case in CASES}) == len(CASES)
    assert all(case.outcome for case in CASES)
    assert {type(stop) for case in CASES if not isinstance(case.outcome, Works) for stop in case.outcome} == {Stop}
