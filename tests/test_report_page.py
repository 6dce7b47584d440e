"""The page of the report on run folders written by hand: what it says, what it leaves out, what can do no harm."""

import json
import re
from html.parser import HTMLParser

import pytest

from segsweep.report.charts.plot import Mark, spread
from segsweep.report.label_efficiency import label_efficiency
from segsweep.report.page import write_page
from segsweep.report.page.learning import read_history
from segsweep.report.page.pictures import Budget, read_panes
from segsweep.report.page.roster import roster, short_names
from segsweep.report.page.sweep_axes import swept
from segsweep.report.pareto import front
from segsweep.report.records import find_records
from segsweep.report.runs import compare
from tests.records import judged, write_record, write_sweep

NASTY = "<script>alert(1)</script> \"quoted' {{ 7*7 }} {% raw %} é漢字 \u202e\x00 </td></style> " + "x" * 500
RAW_TEXT = ("script", "style")
VOID = {"meta", "img", "br", "input", "link", "hr"}


class Tree(HTMLParser):
    """Elements with their attributes, checked to be closed in order; all text outside script and style."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in RAW_TEXT:
            self.words.append(data)

    def count(self, tag, class_=None):
        return sum(t == tag and (class_ is None or class_ in (a.get("class") or "").split()) for t, a in self.elements)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture
def page(tmp_path):
    """``page(folder, ...)`` writes the page of the runs in folders and returns its text and its elements."""

    def make(*folders, **options):
        comparisons = compare(find_records(folders))
        path = write_page(comparisons, [judged(each) for each in comparisons], tmp_path, **options)
        text = path.read_text()
        return text, Tree(text)

    return make


def unfinished(folder, status, error=None, **changes):
    write_record(folder, None, status=status, error=error, metrics={}, images_per_s={}, data=None, floors={}, **changes)


def test_everything_is_on_the_page(tmp_path, page):
    write_sweep(tmp_path / "sweep", 6, 3)
    text, tree = page(tmp_path / "sweep", notes=[["precision differs: 2 values"]])
    headings = re.findall(r"<h3>(.*?)</h3>", text)
    assert headings == [
        "Leaderboard", "Learning curves", "Who is better than whom", "Accuracy against cost", "Class by class",
        "Test images", "What was swept", "To make the same again",
    ]  # fmt: skip
    assert tree.text.count("leads with a test mIoU of") == 1
    assert "is better than model1 lr=0.1 by" in tree.text
    assert "(3 shared seeds)" in tree.text
    assert "Against all 5 others: better than 5." in tree.text
    assert "0.1000 location prior" in tree.text
    assert "precision differs: 2 values" in tree.text
    assert (
        "segsweep -m model=model0 optimizer.lr=0.1 data.batch_size=4 trainer.precision=32-true seed=0,1,2" in tree.text
    )
    assert "000000000000" in tree.text
    assert tree.count("tr") > 6 + 6
    # Curves, costs, confusion matrices, parallel coordinates and two effects; each says what it shows.
    charts = [a for t, a in tree.elements if t == "svg" and "plot" in (a.get("class") or "")]
    assert len(charts) == 3 + 6 + 3 + 1 + 2
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert tree.count("figcaption") >= len(charts)
    pictures = [a["src"] for t, a in tree.elements if t == "img"]
    assert pictures
    assert all(src.startswith("data:image/webp;base64,") for src in pictures)


def test_the_same_runs_give_the_same_bytes(tmp_path, page):
    write_sweep(tmp_path / "sweep", 3, 2)
    assert page(tmp_path / "sweep")[0] == page(tmp_path / "sweep")[0]


def test_the_page_needs_no_network_and_runs_nothing_of_others(tmp_path, page):
    write_sweep(tmp_path / "sweep", 3, 2)
    text, tree = page(tmp_path / "sweep")
    for tag, attributes in tree.elements:
        assert tag not in ("link", "iframe", "object", "embed", "form", "base", "image", "use"), tag
        for key in ("src", "href", "action", "srcset", "xlink:href", "poster", "background"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/")), (tag, attributes)
        assert not any(key.startswith("on") for key in attributes), attributes
    assert not re.search(r"url\(|@import|https?://|//[a-z]+\.", text)
    policy = next(a["content"] for t, a in tree.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:;"
    )
    assert (tree.count("script"), tree.count("style")) == (1, 1)


def test_names_from_data_do_no_harm(tmp_path, page):
    write_sweep(tmp_path / "sweep", 2, 2, names=["background", NASTY])
    for path in (tmp_path / "sweep").rglob("record.json"):
        record = json.loads(path.read_text())
        record["choices"] |= {"data": NASTY, "model": record["choices"]["model"] + NASTY}
        record |= {"device": NASTY, "sweep": NASTY, "family": NASTY, "overrides": [f"model={NASTY}"]}
        record["versions"] = {NASTY: NASTY}
        path.write_text(json.dumps(record))
    unfinished(tmp_path / "sweep" / "z", "failed", {"class": NASTY, "message": NASTY + "\ud800"}, model=NASTY)
    text, tree = page(tmp_path / "sweep", notes=[[NASTY]])
    assert (tree.count("script"), tree.count("style")) == (1, 1)
    assert "{{ 7*7 }}" in tree.text
    assert "é漢字" in tree.text
    assert "<script>alert" not in text
    assert not set(text) & {"\x00", "\u202e", "\ud800"}
    assert all(not key.startswith("on") for _, attributes in tree.elements for key in attributes)


def test_runs_still_going_and_failed_ones(tmp_path, page):
    unfinished(tmp_path / "a", "running")
    (tmp_path / "a" / "metrics.jsonl").write_text('{"epoch": 0, "val/miou": 0.2}\n{"epoch": 1, "val/miou": 0.3}\n{"epo')
    unfinished(tmp_path / "b", "failed", {"class": "oom", "message": "out of memory"}, seed=1, steps=70, epochs=2)
    _, tree = page(tmp_path / "a", tmp_path / "b")
    assert "No run has finished yet: 1 failed (oom), 1 running." in tree.text
    assert "out of memory" in tree.text
    assert "epoch 2, step 70" in tree.text
    assert "running epoch 2 " in tree.text
    assert "1 run each." in tree.text
    assert "Learning curves" in tree.text
    assert "Who is better" not in tree.text


def test_one_run_alone(tmp_path, page):
    write_record(tmp_path / "a", 0.7)
    _, tree = page(tmp_path / "a")
    assert "unet leads with a test mIoU of 0.700 over 1 seed" in tree.text
    assert "nothing to compare it with" in tree.text


def test_one_seed_each(tmp_path, page):
    write_sweep(tmp_path / "sweep", 2, 1)
    assert "too few seeds to tell model0 from model1" in page(tmp_path / "sweep")[1].text


def test_damaged_files_cost_their_part_only(tmp_path, page):
    write_sweep(tmp_path / "sweep", 2, 1)
    for path in (tmp_path / "sweep").rglob("test_confusion.npz"):
        path.write_bytes(path.read_bytes()[:60])
    for path in (tmp_path / "sweep").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    for path in (tmp_path / "sweep").rglob("metrics.jsonl"):
        path.write_text('{"epoch": 1e999}\n[]\nnull\n{"epoch": 1, "val/miou": NaN}\n')
    _, tree = page(tmp_path / "sweep")
    assert "leads" in tree.text
    assert "Confusion matrices" not in tree.text
    assert "Test images" not in tree.text
    assert "Learning curves" not in tree.text


def test_several_datasets_share_colours_and_have_anchors_of_their_own(tmp_path, page):
    write_sweep(tmp_path / "one", 3, 2)
    write_sweep(tmp_path / "two", 3, 2)
    for path in (tmp_path / "two").rglob("record.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "data": {**record["data"], "fingerprint": "d2"}}))
    _, tree = page(tmp_path / "one", tmp_path / "two")
    ids = [a["id"] for _, a in tree.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {"d1-board", "d2-board"} <= set(ids)
    assert {a["data-c"] for t, a in tree.elements if t == "tr" and "data-c" in a} == {"0", "1", "2"}
    for tag, attributes in tree.elements:
        if tag == "a":
            assert attributes["href"][1:] in ids


def test_a_thousand_runs_are_shown_in_part_and_said_so(tmp_path, page):
    write_sweep(tmp_path / "sweep", 60, 2, num_epochs=3, num_pictures=2)
    text, tree = page(tmp_path / "sweep")
    assert "The best 12 of 60 configurations." in tree.text
    assert "The best 20 of 60 configurations." in tree.text
    assert "the best 6 configurations are shown" not in tree.text  # no more than six have pictures
    assert len(re.findall(r'<tr data-c="\d+">\s*<td class="num c-rank"', text)) == 60
    assert len(text) < 1_500_000


def test_pictures_stop_at_their_budget(tmp_path):
    write_sweep(tmp_path / "sweep", 1, 1)
    panes = read_panes(next((tmp_path / "sweep").rglob("fixed-00000.png")))
    size = len(panes.image)
    budget = Budget(size)
    assert budget.take([panes.image])
    assert not budget.take([panes.image])
    assert budget.refused == 1


def test_sections_are_part_of_the_page(tmp_path, page):
    for fraction in (0.1, 1.0):
        for regime in ("supervised", "pretrain"):
            for seed in (0, 1):
                score = fraction * 0.5 + 0.01 * seed
                write_record(tmp_path / f"{fraction}{regime}{seed}", score, seed=seed, fraction=fraction, regime=regime)
    comparisons = compare(find_records([tmp_path]))
    section = label_efficiency(comparisons, None)
    _, tree = page(tmp_path, sections=[section])
    assert section.title in tree.text
    assert section.parts[0].sentences[0] in tree.text
    assert section.parts[0].tables[0].header[0] in tree.text
    assert any(a.get("aria-label", "").startswith(section.panels[0].title) for t, a in tree.elements if t == "svg")


def test_swept_keys_are_those_that_were_set_to_several_values(tmp_path):
    write_sweep(tmp_path / "sweep", 40, 1)
    comparison = compare(find_records([tmp_path / "sweep"]))[0]
    assert swept(comparison) == {
        "data.batch_size": [4, 8],
        "model": ["model0", "model1", "model2", "model3", "model4"],
        "optimizer.lr": [0.0001, 0.001, 0.01, 0.1],
    }


def test_the_front_holds_what_nothing_else_beats():
    points = [("cheap", 1.0, 0.3), ("beaten", 2.0, 0.2), ("equal", 1.0, 0.1), ("dear", 3.0, 0.9)]
    assert [name for name, *_ in front(points, is_gain=False)] == ["cheap", "dear"]
    assert [name for name, *_ in front(points, is_gain=True)] == ["dear"]


def test_names_are_shortened_until_they_would_be_equal():
    assert short_names(["model=unet", "model=reseg"]) == ["unet", "reseg"]
    assert short_names(["a.lr=1", "b.lr=1"]) == ["a.lr=1", "b.lr=1"]


def test_who_ranks_high_anywhere_gets_a_colour_of_its_own(tmp_path):
    write_sweep(tmp_path / "sweep", 40, 1)
    comparison = compare(find_records([tmp_path / "sweep"]))[0]
    marks = roster([comparison])
    best, last = (marks[comparison.configurations[i].name] for i in (0, -1))
    assert (best.slot, best.classes) == (0, "k0 d0")
    assert (last.slot, last.classes) == (39, "kx")
    assert Mark("a", "a", "a", 9).classes == "k1 d1"


def test_labels_move_apart_as_little_as_needed():
    places = spread([10, 11, 12, 60], 10, 0, 100)
    assert places == [1, 11, 21, 60]
    assert spread([95, 96, 97], 10, 0, 100)[-1] == 100


def test_a_history_takes_the_last_of_repeated_epochs(tmp_path):
    lines = ['{"epoch": 0, "val/miou": 0.1}', '{"epoch": 0, "val/miou": 0.2, "train/loss": null}', "rubbish"]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert read_history(tmp_path) == {1: {"val/miou": 0.2}}
