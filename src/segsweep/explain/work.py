"""Does what was asked for, image by image, with bounded memory."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from segsweep.explain.attribution import (
    Attribution,
    RegionScore,
    baseline_of,
    grad_cam,
    integrated_gradients,
    num_patches,
    occlusion,
    patches,
)
from segsweep.explain.calibration import of_images, of_test_split
from segsweep.explain.extent import theoretical_extent
from segsweep.explain.field import NUM_VIEWS, Field, effective_field
from segsweep.explain.findings import Explained, Findings, Settings
from segsweep.explain.images import Sample
from segsweep.explain.layers import choose_layer
from segsweep.explain.sanity import randomised, rank_correlation
from segsweep.explain.target import class_target, point_target, refuse_outside
from segsweep.explain.uncertainty import doubt, dropout_doubt, has_dropout, probabilities
from segsweep.inference import refuse_twice
from segsweep.opened import OpenedRun
from segsweep.report.printable import printable
from segsweep.run import ConfigError

Tick = Callable[[int], None]
_ALIKE = ("in_channels", "mean", "std", "size")  # what runs must share to look at the same tensors
_READ = ("scale", "alpha", "exif")


def find_out(
    run: OpenedRun,
    samples: Sequence[Sample],
    settings: Settings,
    compare: Sequence[OpenedRun] = (),
    ensemble: Sequence[OpenedRun] = (),
    is_scored: bool = False,
    tick: Tick = lambda _: None,
) -> Findings:
    """Explains a run on some images.

    Args:
        run: to explain.
        samples: images, prepared for it.
        settings: what is asked for.
        compare: runs whose receptive fields are shown beside its own.
        ensemble: runs that are asked for their opinion together with it.
        is_scored: whether the images' masks are for a calibration.
        tick: is told how many passes are done; ``num_passes`` says of how many.

    Raises:
        ConfigError: something that was asked for is not possible.
    """
    for option, others, facts in (("--compare", compare, _ALIKE), ("--ensemble", ensemble, ("class_names", *_ALIKE))):
        for other in others:
            refuse_unlike(run, other, facts, option)
    refuse_twice((run, *ensemble))
    findings = Findings(run, settings)
    shown = samples[: settings.most]
    if len(samples) > len(shown):
        findings.notes.append(f"the first {len(shown)} of {len(samples)} images are shown one by one (--most)")
    if settings.point is not None:
        for sample in shown:
            refuse_outside(settings.point, sample.native, sample.path.name)
    if "attribution" in settings.parts:
        _choose_layer(findings, shown[0].image)
    if "uncertainty" in settings.parts and not has_dropout(run.model):
        findings.notes.append("MC dropout is left out: the model has no dropout layer")
    models = [run.model, *(other.model for other in ensemble)]
    if "calibration" in settings.parts:
        _calibrate(findings, samples if is_scored else [], models)
    if "receptive-field" in settings.parts:
        _look_at_fields(findings, samples, (run, *compare), tick)
    shuffled = randomised(run.model) if settings.sanity and "attribution" in settings.parts else None
    findings.images = [_explain(findings, sample, models, shuffled, tick) for sample in shown]
    return findings


def num_passes(run: OpenedRun, samples: Sequence[Sample], settings: Settings, num_compared: int) -> int:
    """About how many images pass through models: what a progress bar counts."""
    shown = samples[: settings.most]
    total = 0
    if "attribution" in settings.parts:
        for sample in shown:
            size = (sample.image.shape[-2], sample.image.shape[-1])
            cost = {
                "grad-cam": 1,
                "integrated-gradients": settings.steps + 4,
                "occlusion": 1 + num_patches(size, *patches(size, settings.patch, settings.stride)),
            }
            total += sum(cost[method] for method in settings.methods) * (1 + settings.sanity)
    if "uncertainty" in settings.parts and has_dropout(run.model):
        total += len(shown) * settings.dropout_passes
    if "receptive-field" in settings.parts:
        views = len(samples) if settings.point else max(NUM_VIEWS, len(samples))
        total += (1 + num_compared) * views
    return total


def refuse_unlike(run: OpenedRun, other: OpenedRun, facts: Sequence[str], option: str) -> None:
    """Refuses a run that cannot be asked about the same tensors.

    Raises:
        ConfigError: a fact of its data differs.
    """
    for fact in facts:
        own, its = getattr(run.spec, fact), getattr(other.spec, fact)
        if own != its:
            raise ConfigError(
                f"{option} {other.folder}: its data has {fact}={printable(str(its))[:100]}, that of {run.name} "
                f"{printable(str(own))[:100]}. Give runs of the same data"
            )
    own, its = (({"fit": r.fit} | {key: r.data_node.get(key) for key in _READ}) for r in (run, other))
    if own != its:
        differing = ", ".join(f"data.{key}" for key in own if own[key] != its[key])
        raise ConfigError(f"{option} {other.folder} reads images differently ({differing}). Give runs of the same data")


def _choose_layer(findings: Findings, image: Tensor) -> None:
    """A model without an encoder loses Grad-CAM, not everything; asked for by name it is a mistake."""
    settings = findings.settings
    if "grad-cam" not in settings.methods:
        return
    try:
        findings.layer = choose_layer(findings.run.model, image, settings.layer)
    except ConfigError as error:
        if settings.layer is not None or settings.methods == ("grad-cam",):
            raise
        findings.notes.append(f"left out: {error}")


def _explain(
    findings: Findings, sample: Sample, models: Sequence[nn.Module], shuffled: nn.Module | None, tick: Tick
) -> Explained:
    settings, spec, model = findings.settings, findings.run.spec, models[0]
    probability = probabilities(model, sample.image)
    prediction = probability[0].argmax(dim=0).numpy()
    if settings.point is not None:
        target = point_target(prediction, spec, settings.point, sample.native, sample.path.name)
    else:
        target = class_target(prediction, spec, settings.class_name)
    maps: dict[str, Attribution] = {}
    sanity: dict[str, float | None] = {}
    if "attribution" in settings.parts:
        maps = _attribute(RegionScore(model, target.number, target.region, tick), sample, findings)
        if shuffled is not None:
            others = _attribute(RegionScore(shuffled, target.number, target.region, tick), sample, findings)
            sanity = {name: rank_correlation(found.values, others[name].values) for name, found in maps.items()}
    whole = dropout = ensemble = None
    if "uncertainty" in settings.parts:
        whole = doubt(probability)
        if has_dropout(model):
            dropout = dropout_doubt(model, sample.image, settings.dropout_passes, tick)
        if len(models) > 1:
            ensemble = doubt(torch.cat([probability, *(probabilities(other, sample.image) for other in models[1:])]))
    return Explained(sample, target, prediction, maps, sanity, whole, dropout, ensemble)


def _attribute(score: RegionScore, sample: Sample, findings: Findings) -> dict[str, Attribution]:
    settings, image = findings.settings, sample.image
    baseline = baseline_of(settings.baseline, image, findings.run.spec)
    size = (image.shape[-2], image.shape[-1])
    make: dict[str, Callable[[], Attribution]] = {
        "grad-cam": partial(grad_cam, score, image, findings.layer),
        "integrated-gradients": partial(integrated_gradients, score, image, baseline, settings.steps),
        "occlusion": lambda: occlusion(score, image, baseline, *patches(size, settings.patch, settings.stride)),
    }
    return {name: make[name]() for name in settings.methods if name != "grad-cam" or findings.layer}


def _look_at_fields(findings: Findings, samples: Sequence[Sample], runs: Sequence[OpenedRun], tick: Tick) -> None:
    point = findings.settings.point
    if point is not None:
        if len({(sample.native, sample.image.shape) for sample in samples}) > 1:
            findings.notes.append(
                "the receptive field is left out: the images differ in size, so the point is no one place"
            )
            return
        image, native = samples[0].image, samples[0].native
        point = point[0] * image.shape[-2] // native[0], point[1] * image.shape[-1] // native[1]
    images = [sample.image for sample in samples]
    findings.fields = [_field(run, images, point, tick) for run in runs]


def _field(run: OpenedRun, images: Sequence[Tensor], point: tuple[int, int] | None, tick: Tick) -> Field:
    found = effective_field(run.model, images, point, tick)
    size = (found.sensitivity.shape[0], found.sensitivity.shape[1])
    extent = theoretical_extent(run.model, run.spec.in_channels, size)
    family = printable(str(run.model_node.get("family", "")))[:40]
    return Field(run.name, family, *found, len(images), extent)


def _calibrate(findings: Findings, samples: Sequence[Sample], models: Sequence[nn.Module]) -> None:
    run = findings.run
    counted = of_test_split(run.folder)
    if not isinstance(counted, str):
        findings.calibrations.append(counted)
    elif not samples:
        findings.notes.append(counted)

    def score(image: Tensor) -> Tensor:
        return torch.stack([probabilities(model, image) for model in models]).mean(dim=0).clamp_min(1e-12).log()

    if samples:
        findings.calibrations.append(of_images(samples, score, run.spec.ignore_index))


def agreement(findings: Findings) -> dict[str, float]:
    """Of each method, the mean rank correlation with its maps under random weights."""
    found: dict[str, list[float]] = {}
    for image in findings.images:
        for method, value in image.sanity.items():
            if value is not None:
                found.setdefault(method, []).append(value)
    return {method: float(np.mean(values)) for method, values in found.items()}
