"""Label efficiency from records written by hand."""

import csv
import re

import pytest

from segsweep.report import curve
from segsweep.report.arms import compare_arms, find_arms
from segsweep.report.command import main
from segsweep.report.label_efficiency import label_efficiency, sentence
from segsweep.report.records import find_records
from segsweep.report.runs import compare
from tests.records import DATA, write_record

pytestmark = pytest.mark.usefixtures("without_figures")
FRACTIONS = (0.05, 0.2, 1.0)
SUPERVISED = {0.05: 0.40, 0.2: 0.50, 1.0: 0.60}
NOISE = {0: -0.1, 1: 0.0, 2: 0.1}  # of a seed, equal for all arms


@pytest.fixture
def write(tmp_path):
    """``write("pretrain", {fraction: gain})`` puts three seeds of an arm there."""

    def arm(regime, gains, jitter=0.001, seeds=(0, 1, 2), **more):
        for fraction, gain in gains.items():
            for seed in seeds:
                miou = SUPERVISED[fraction] + gain + NOISE[seed] + jitter * (seed - 1)
                name = f"regime={regime},data.labelled_fraction={fraction},seed={seed}"
                folder = tmp_path / "sweep" / f"{more.get('model', 'unet')},{more.get('config')},{name}"
                write_record(folder, miou, seed=seed, fraction=fraction, regime=regime, **more)
        return tmp_path / "sweep"

    return arm


def flat(gain):
    return dict.fromkeys(FRACTIONS, gain)


def judged(sweep, reference=None):
    (comparison,) = compare(find_records([sweep]))
    return {result.arm.name: result for result in compare_arms(find_arms(comparison)[0], reference)}


def test_every_arm_is_judged_by_pairs_of_seeds(write):
    write("supervised", flat(0), jitter=0)
    write("pretrain", flat(0.03))
    write("joint", flat(-0.03))
    results = judged(write("self_training", flat(0.0)))
    assert set(results) == {"regime=pretrain", "regime=joint", "regime=self_training"}
    # Differences of 0.029, 0.030, 0.031: half an interval is 4.302653 * 0.001 / sqrt(3) = 0.002484.
    for fraction in FRACTIONS:
        found = results["regime=pretrain"].by_fraction[fraction]
        assert (found.mean, found.n) == (pytest.approx(0.03), 3)
        assert (found.low, found.high) == pytest.approx((0.03 - 0.002484, 0.03 + 0.002484), abs=1e-6)
    assert sentence(results["regime=pretrain"]) == (
        "regime=pretrain helps: +0.0300 test mIoU against regime=supervised, 95 % interval +0.0275 to +0.0325 "
        "(mean of 3 labelled fractions, paired over 3 seeds). By fraction: helps at 5 %, 20 %, 100 %."
    )
    assert sentence(results["regime=joint"]).startswith("regime=joint hurts: -0.0300 test mIoU")
    assert sentence(results["regime=self_training"]).startswith("regime=self_training: no difference shown: ")


def test_fractions_are_judged_one_by_one(write):
    write("supervised", flat(0), jitter=0)
    result = judged(write("pretrain", {0.05: 0.03, 0.2: 0.0, 1.0: -0.03}))["regime=pretrain"]
    assert sentence(result).endswith("helps at 5 %; no difference shown at 20 %; hurts at 100 %.")


def test_labels_saved_of_the_means_and_of_each_seed(write):
    write("supervised", flat(0), jitter=0)
    result = judged(write("pretrain", {0.05: 0.1, 0.2: 0.1, 1.0: 0.1}, jitter=0))["regime=pretrain"]
    assert [str(result.saved[f]) for f in FRACTIONS] == ["at least 1.0x", "at least 4.0x", "5.0x"]
    assert [str(saving) for saving in result.saved_by_seed[1.0]] == ["5.0x"] * 3
    assert str(judged(write("joint", flat(-0.2)))["regime=joint"].saved[1.0]) == "not reached"


def test_seeds_that_an_arm_lacks_are_left_out(write):
    write("supervised", flat(0), jitter=0)
    write("pretrain", {0.05: 0.03, 0.2: 0.03})
    results = judged(write("pretrain", {1.0: 0.03}, seeds=(0,)))
    assert results["regime=pretrain"].by_fraction[0.05].n == 3
    assert results["regime=pretrain"].overall.n == 1
    assert sentence(results["regime=pretrain"]) == (
        "regime=pretrain: too few seeds to compare with regime=supervised (1 shared, at least 2)."
    )


def test_failed_runs_do_not_count(write, tmp_path):
    write("supervised", flat(0))
    write("pretrain", flat(0.1))
    write_record(tmp_path / "sweep" / "x", 0.9, seed=3, fraction=0.05, regime="pretrain", status="failed")
    assert judged(tmp_path / "sweep")["regime=pretrain"].by_fraction[0.05].n == 3


def test_each_model_is_compared_with_itself(write):
    for model in ("unet", "reseg"):
        write("supervised", flat(0), model=model)
        sweep = write("pretrain", flat(0.1), model=model)
    results = judged(sweep)
    assert {name: result.reference.name for name, result in results.items()} == {
        "model=unet regime=pretrain": "model=unet regime=supervised",
        "model=reseg regime=pretrain": "model=reseg regime=supervised",
    }


def test_without_a_supervised_arm_the_first_is_the_reference(write):
    write("pretrain", flat(0.1))
    sweep = write("joint", flat(0))
    assert list(judged(sweep)) == ["regime=pretrain"]
    assert judged(sweep)["regime=pretrain"].reference.name == "regime=joint"


def test_the_reference_can_be_chosen(write, capsys):
    write("supervised", flat(0))
    write("joint", flat(0))
    sweep = write("pretrain", flat(0.1))
    main([str(sweep), "--reference", "regime=joint"])
    assert "against regime=joint" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(sweep), "--reference", "regime=jiont"])
    error = capsys.readouterr().err
    assert error.startswith("error: --reference 'regime=jiont': there is no such arm. There are: regime=supervised, ")


def test_runs_at_one_fraction_make_no_section(write):
    write("supervised", {1.0: 0.0})
    sweep = write("pretrain", {1.0: 0.1})
    main([str(sweep)])
    assert not list((sweep / "report").glob("label_efficiency*"))


def test_an_arm_at_one_fraction_is_named(write):
    write("supervised", flat(0))
    write("pretrain", flat(0.1))
    sweep = write("supervised", {1.0: 0.1}, model="vae")
    (part,) = label_efficiency(compare(find_records([sweep]))).parts
    assert [line.name for line in part.panels[0].lines] == ["regime=supervised", "regime=pretrain"]
    assert "left out, one labelled fraction only: model=vae regime=supervised" in part.notes


def test_what_is_written_and_printed(write, capsys):
    write("supervised", flat(0), jitter=0)
    sweep = write("pretrain", flat(0.1), jitter=0.002)
    main([str(sweep)])
    screen = capsys.readouterr().out
    assert "5% to 100% labelled" in screen
    assert "regime=pretrain helps: +0.1000" in screen
    assert "seeds: 3 for each mean (0, 1, 2)" in screen
    assert "an interval reaches 2.5 standard deviations" in screen
    with (sweep / "report" / "label_efficiency.csv").open() as file:
        rows = {(row["arm"], float(row["labelled_fraction"])): row for row in csv.DictReader(file)}
    assert len(rows) == 6
    row = rows["regime=pretrain", 0.2]
    assert (row["mean"], row["n"], row["difference"], row["verdict"]) == ("0.600000", "3", "0.100000", "helps")
    assert row["labels_saved"] == "at least 4.0x"
    assert rows["regime=supervised", 0.2]["reference"] == "-"
    page = (sweep / "report" / "label_efficiency.md").read_text()
    assert "| regime=pretrain | +0.1000 ± 0.0050 | +0.1000 ± 0.0050 | +0.1000 ± 0.0050 |" in page
    assert "(label_efficiency.svg)" in page


def test_the_picture_is_self_contained_and_the_same_each_time(write):
    write("supervised", flat(0))
    sweep = write("pretrain", flat(0.1))
    pictures = []
    for _ in range(2):
        main([str(sweep)])
        pictures.append((sweep / "report" / "label_efficiency.svg").read_text())
    assert pictures[0] == pictures[1]
    links = set(re.findall(r'href="([^"]*)"', pictures[0]))
    assert all(link.startswith("#") for link in links)
    assert "<text" not in pictures[0]  # glyphs are drawn: no font is needed


def test_datasets_are_panels_of_one_picture(write, tmp_path):
    write("supervised", flat(0))
    for fraction in FRACTIONS:
        folder = tmp_path / "sweep" / f"other{fraction}"
        write_record(folder, 0.5, fraction=fraction, data={**DATA, "fingerprint": "d2", "labelled_fraction": fraction})
    section = label_efficiency(compare(find_records([tmp_path / "sweep"])))
    panels = [panel for part in section.parts for panel in part.panels]
    assert len(panels) == 2
    for drawn in (panels, panels * 2):  # four panels leave two places of six empty
        assert curve.draw(drawn, columns=3).count(b'id="axes_') == len(drawn)


@pytest.mark.slow
def test_names_from_records_do_no_harm_in_the_picture(write, monkeypatch):
    monkeypatch.undo()  # figures are drawn with these names too
    write("supervised", flat(0))
    sweep = write("$x_{--><script>|", flat(0.1))
    main([str(sweep)])
    assert "<script" not in (sweep / "report" / "label_efficiency.svg").read_text()
    assert "<script" not in (sweep / "report" / "label_efficiency.md").read_text()


@pytest.mark.slow
def test_a_thousand_runs_are_reported(tmp_path, write):
    for model in range(28):
        for regime in ("supervised", "pretrain", "joint", "self_training"):
            sweep = write(regime, flat(0.01 * model / 28), model=f"m{model}")
    main([str(sweep)])
    assert (sweep / "report" / "index.html").exists()
