"""From the command line to evaluations: everything is opened, checked and given a place before anything is scored."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segsweep.evaluate.classes import map_classes, parse_map
from segsweep.evaluate.images import about_data, images_of
from segsweep.evaluate.scoring import Scored, Scoring
from segsweep.evaluate.writing import identity, is_place_for, write_evaluation
from segsweep.hints import written
from segsweep.inference import SCALES, Ensemble, check_options, chosen_flips, pick_device, precision_on, refuse_twice
from segsweep.opened import OpenedRun, open_finished
from segsweep.run import ConfigError

_IN_NAMES = ("split", "data", "tta", "tile", "overlap")  # of folders


@dataclass(frozen=True)
class Evaluation:
    """Runs that are scored as one.

    Attributes:
        runs: one or several.
        settings: what was asked for, what sets the evaluation apart from others and from the run's own test.
        scoring: the model and the images.
        about: the images, for the record.
        absent: classes of the runs that the images do not have.
        folder: where it is written.
    """

    runs: Sequence[OpenedRun]
    settings: Mapping[str, Any]
    scoring: Scoring
    about: dict[str, Any]
    absent: list[str]
    folder: Path

    def run(self) -> Scored:
        """Scores all images, and writes what comes out."""
        scored = self.scoring.run(self.folder.name)
        write_evaluation(self.folder, self.runs, self.settings, self.about, self.scoring, scored)
        return scored


def prepare(options: argparse.Namespace) -> list[Evaluation]:
    """What a command line asks for: each run alone, and all of them as one.

    Raises:
        ConfigError: a mistake in it, or something that does not fit together.
    """
    check_options(options.tta, options.flips, options.tile, options.overlap)
    if not options.data and options.map:
        raise ConfigError("--map belongs to data that --data names: a run's own data have its classes")
    renamed = parse_map(options.map)
    if options.ensemble and len(options.runs) < 2:
        raise ConfigError("--ensemble needs two runs or more, e.g. those of several seeds")
    runs = [open_finished(folder, options.trust) for folder in options.runs]
    if options.ensemble:
        refuse_twice(runs)
    runs = list({run.folder.resolve(): run for run in runs}.values())  # patterns that overlap name one twice
    groups = [[run] for run in runs] + ([runs] if options.ensemble else [])
    evaluations: list[Evaluation] = []
    for group in groups:
        evaluations.append(_prepared(group, options, renamed, [evaluation.folder for evaluation in evaluations]))
    return evaluations


def _prepared(
    runs: Sequence[OpenedRun], options: argparse.Namespace, renamed: Mapping[str, str], taken: Sequence[Path]
) -> Evaluation:
    first, device = runs[0], pick_device(options.device)
    tta = options.tta or ""
    flips = chosen_flips(options.flips, first.record) if "flips" in tta else ("",)
    ensemble = Ensemble.of_runs(
        runs,
        flips=flips,
        scales=SCALES if "scales" in tta else (1.0,),
        tile=options.tile and tuple(options.tile),
        overlap=options.overlap,
        device=device,
        precision=precision_on(device, first.record.get("precision")),
    )
    data = images_of(first, options.data, options.root, options.set)
    classes = map_classes(data.spec, first.spec, renamed)
    scoring = Scoring(ensemble, data, options.split, classes, first.spec)
    settings = _settings(runs, options, renamed, flips)
    about = about_data(data, options.data or first.record, options.split)
    return Evaluation(runs, settings, scoring, about, classes.absent, _place(options.out, runs, settings, taken))


def _settings(
    runs: Sequence[OpenedRun], options: argparse.Namespace, renamed: Mapping[str, str], flips: Sequence[str]
) -> dict[str, Any]:
    asked = {
        "ensemble": len(runs) if len(runs) > 1 else None,
        "split": options.split,
        "data": options.data,
        "set": options.set or None,
        "map": dict(renamed) or None,
        "tta": options.tta,
        "flips": [flip or "none" for flip in flips] if options.tta else None,
        "tile": options.tile,
        "overlap": options.overlap,
    }
    return {key: value for key, value in asked.items() if value is not None}


def _place(out: Path, runs: Sequence[OpenedRun], settings: Mapping[str, Any], taken: Sequence[Path]) -> Path:
    """A folder of its own: named by the run and what differs from its own test; where that is taken, by a digest too.

    Raises:
        ConfigError: both are taken by something else.
    """
    names = [run.name for run in runs]
    parts = ["ensemble of " + "+".join(names)] if len(names) > 1 else names
    parts += [f"{key}={written(settings[key])}" for key in _IN_NAMES if settings.get(key, "test") != "test"]
    label = ",".join(parts).replace("/", "_")
    label = label if len(label) <= 180 else f"{label[:160]} and more"
    fingerprint = identity(runs, settings)[0]
    for folder in (out / label, out / f"{label},{fingerprint[:8]}"):
        if folder not in taken and is_place_for(folder, fingerprint):
            return folder
    raise ConfigError(f"{out / label} holds something else. Choose another --out")
