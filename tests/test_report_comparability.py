"""What is said about runs that were not treated alike, and what --strict makes of it."""

import pytest

from segsweep.report.command import main
from segsweep.report.comparability import differences, refuse
from segsweep.report.records import find_records
from segsweep.report.runs import compare
from tests.records import write_record

pytestmark = pytest.mark.usefixtures("without_figures")
ALIKE = {
    "precision": "bf16-mixed", "steps": 100, "epochs": 5, "images_seen": 1600, "pretrained": None, "tuning_trials": 0,
    "device": "a CPU", "threads": 2, "devices": 1, "git": {"commit": "a" * 40, "dirty": False},
    "versions": {"torch": "2.15.0"},
}  # fmt: skip


def found(folder, **changes):
    write_record(folder / "a", 0.7, model="unet", **ALIKE)
    write_record(folder / "b", 0.6, model="reseg", **{**ALIKE, **changes})
    (comparison,) = compare(find_records([folder]))
    return differences(comparison)


def test_runs_treated_alike_have_no_line(tmp_path):
    assert found(tmp_path) == []


UNFAIR = [
    ("precision", {"precision": "32-true"}, "bf16-mixed (model=unet); 32-true (model=reseg)"),
    ("optimisation steps", {"steps": 2000}, "100 (model=unet); 2,000 (model=reseg)"),
    ("epochs", {"epochs": 6}, "5 (model=unet); 6 (model=reseg)"),
    ("images seen", {"images_seen": 3200}, "1,600 (model=unet); 3,200 (model=reseg)"),
    ("pretrained weights", {"pretrained": "imagenet"}, "none (model=unet); imagenet (model=reseg)"),
    ("tuning trials", {"tuning_trials": 20}, "0 (model=unet); 20 (model=reseg)"),
    ("parameters", {"parameters": 1_600_000}, "model=reseg has 7% more than model=unet"),
]
ASIDE = [
    ("device", {"device": "a GPU"}, "a CPU (model=unet); a GPU (model=reseg)"),
    ("threads", {"threads": 1}, "2 (model=unet); 1 (model=reseg)"),
    ("code", {"git": {"commit": "a" * 40, "dirty": True}},
     "aaaaaaaaa (model=unet); aaaaaaaaa with uncommitted changes (model=reseg)"),
    ("torch", {"versions": {"torch": "2.11.0"}}, "2.15.0 (model=unet); 2.11.0 (model=reseg)"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "change", "text"), UNFAIR, ids=[row[0] for row in UNFAIR])
def test_what_may_decide_who_wins_is_named_and_refused_by_strict(tmp_path, capsys, what, change, text):
    (difference,) = found(tmp_path, **change)
    assert (difference.what, difference.text, difference.is_unfair) == (what, text, True)
    main([str(tmp_path)])
    assert f"not alike: {what}: {text}" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--strict", "--out", str(tmp_path / "strict")])
    assert stopped.value.code == 1
    assert f"{what}: {text}" in capsys.readouterr().err
    assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize(("what", "change", "text"), ASIDE, ids=[row[0] for row in ASIDE])
def test_what_concerns_speed_or_origin_alone_is_named(tmp_path, what, change, text):
    (difference,) = found(tmp_path, **change)
    assert (difference.what, difference.text, difference.is_unfair) == (what, text, False)
    refuse(compare(find_records([tmp_path])))


def test_five_percent_more_parameters_are_a_match(tmp_path):
    assert found(tmp_path, parameters=1_575_000) == []


def test_runs_that_did_not_finish_say_nothing(tmp_path):
    assert found(tmp_path, status="failed", precision="32-true", metrics={}) == []


def test_many_configurations_are_counted(tmp_path):
    for n in range(5):
        write_record(tmp_path / f"x{n}", 0.5, model=f"m{n}", **ALIKE)
    (difference,) = found(tmp_path, precision="32-true")
    assert difference.text == "bf16-mixed (model=unet, model=m0, model=m1 and 3 more); 32-true (model=reseg)"


OTHER_DATA = {
    "split_sizes": {"train": 50, "val": 20, "test": 20},
    "class_names": ["background", "other"],
    "size": [96, 96],
}


@pytest.mark.parametrize("key", OTHER_DATA)
def test_other_splits_classes_or_resolutions_are_never_ranked_together(tmp_path, key):
    write_record(tmp_path / "a", 0.7)
    record = {"fingerprint": "d1", "split_sizes": {"train": 100, "val": 20, "test": 20}, "size": [48, 48],
              "class_names": ["background", "thing"], "labelled_fraction": 1.0}  # fmt: skip
    write_record(tmp_path / "b", 0.6, model="reseg", data={**record, key: OTHER_DATA[key]})
    assert [len(comparison.configurations) for comparison in compare(find_records([tmp_path]))] == [1, 1]
