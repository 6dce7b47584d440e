"""The page of the report in a real browser, where there is one: sorting, widths, colours; nothing is fetched."""

import html
import json
import os
import re
import shutil
import subprocess

import pytest

from segsweep.report.page import write_page
from segsweep.report.records import find_records
from segsweep.report.runs import compare
from tests.records import judged, write_sweep

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
LONG = "a very long name of a class " * 20

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser is installed (looked for {', '.join(NAMES)})")

# What a visitor would do; the outcome is written where --dump-dom shows it.
WATCH = """<script>
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
window.addEventListener("error", (event) => window.violations.push(event.message));
</script>"""
VISIT = """<script>
const rows = () => [...document.querySelectorAll("#d1-board tbody tr")].filter((row) => !row.hidden);
const column = (key) => rows().map((row) => row.querySelector(`.c-${key}`).dataset.v);
const click = (key) => document.querySelector(`#d1-board th[data-key=${key}] button`).click();
const color = (name) => getComputedStyle(document.querySelector(name)).backgroundColor;
const found = {
  at_start: column("params"),
  address: location.hash,
  width: document.documentElement.scrollWidth,
  window: document.documentElement.clientWidth,
  charts: [...document.querySelectorAll("svg.plot")].filter((svg) => svg.getBoundingClientRect().width > 200).length,
  pictures: [...document.images].filter((image) => image.naturalWidth > 0).length,
  images: document.images.length,
  ground: color("body"),
  fetched: performance.getEntriesByType("resource").map((e) => e.name).filter((name) => !name.startsWith("data:")),
};
click("miou");
found.falling = column("miou");
click("miou");
found.rising = column("miou");
found.permalink = location.hash;
click("name");
found.names = column("name");
const filter = document.querySelector("input.filter");
filter.value = "model1 lr=0.01";
filter.dispatchEvent(new Event("input"));
found.filtered = column("name");
document.getElementById("theme").click();
found.light = color("body");
document.getElementById("theme").click();
found.dark = color("body");
document.getElementById("theme").click();  // a choice is kept: the next frame would take it
document.querySelector("#d1-board tbody tr").dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
found.pointed = document.querySelectorAll("svg.plot .hot").length;
found.violations = window.violations;
document.documentElement.dataset.found = JSON.stringify(found);
parent.postMessage(JSON.stringify(found), "*");
</script>"""
FRAMES = """<!doctype html><body><script>
const found = [];
window.addEventListener("message", (event) => {
  found.push(JSON.parse(event.data));
  document.documentElement.dataset.found = JSON.stringify(found);
});
</script>%s</body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of 25 configurations on two datasets, one of them with very long names, watched and visited by scripts."""
    folder = tmp_path_factory.mktemp("page")
    write_sweep(folder / "sweep", 25, 2, num_epochs=4)
    write_sweep(folder / "other", 2, 1, names=["background", LONG])
    for path in (folder / "other").rglob("record.json"):
        record = json.loads(path.read_text())
        record["data"]["fingerprint"] = record["fingerprint_without_seed"] = "d2"
        path.write_text(json.dumps({**record, "device": LONG, "choices": {**record["choices"], "model": LONG}}))
    comparisons = compare(find_records([folder / "sweep", folder / "other"]))
    path = write_page(comparisons, [judged(each) for each in comparisons], folder)
    text = path.read_text().replace("<title>", WATCH + "<title>", 1).replace("</body>", VISIT + "</body>")
    path.write_text(text)
    return path


def visit(address, folder, *options):
    """What the page's scripts found: the DOM after they ran, without a network."""
    command = [
        BROWSER, "--headless", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,1000", "--no-first-run",
        f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom",
        "--allow-file-access-from-files", "--virtual-time-budget=4000", *options, address,
    ]  # fmt: skip
    if os.geteuid() == 0:
        command.insert(1, "--no-sandbox")  # it refuses to run as root with one
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    match = re.search(r'<html[^>]* data-found="([^"]*)"', dom)
    assert match, dom[:2000]
    return json.loads(html.unescape(match[1]))


def test_a_permalink_leads_to_a_sorted_table(page, tmp_path):
    found = visit(f"file://{page}#sort=d1-board:params:desc", tmp_path, "--blink-settings=preferredColorScheme=0")
    values = [float(value) for value in found["at_start"]]
    assert values == sorted(values, reverse=True)
    assert values != sorted(values)
    assert found["address"] == "#sort=d1-board:params:desc"
    assert found["ground"] == found["dark"]  # the system is dark, nobody has chosen yet


def test_at_both_widths_nothing_is_fetched_and_everything_works(page, tmp_path):
    # A window cannot be made narrower than 500 pixels, a frame can.
    frames = "".join(f'<iframe src="{page.name}" style="width:{w}px;height:900px"></iframe>' for w in (1280, 400))
    frame = page.parent / "frames.html"
    frame.write_text(FRAMES % frames.replace("style=", 'frameborder="0" style='))
    both = visit(f"file://{frame}", tmp_path, "--blink-settings=preferredColorScheme=1")
    assert sorted(found["window"] for found in both) == [400, 1280]
    for found in both:
        assert found["width"] <= found["window"]
        assert (found["fetched"], found["violations"]) == ([], [])
        assert found["charts"] >= 15
        assert found["pictures"] == found["images"] > 0
        falling = [float(value) for value in found["falling"]]
        assert falling == sorted(falling, reverse=True)
        assert found["rising"] == found["falling"][::-1]
        assert found["permalink"] == "#sort=d1-board:miou:asc"
        assert found["names"] == sorted(found["names"])
        assert found["filtered"]
        assert all("model1" in name and "lr=0.01" in name for name in found["filtered"])
        assert found["ground"] == found["light"] != found["dark"]
        assert found["pointed"] > 0
