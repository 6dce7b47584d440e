"""Run folders, images and datasets that mean harm, for ``audited.py``: each entry changes a finished run.

Whatever they would do if somebody let them leaves a mark below ``outside`` or makes an event that the hook sees.
"""

import hashlib
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from tests.finished import change, rewrite


class Place(NamedTuple):
    """Where harm is meant."""

    run: Path  # the run folder, a copy of a good one
    images: Path  # a folder with one good image
    masks: Path  # a folder with its mask
    out: Path  # where the command writes
    outside: Path  # nothing here may be read or written


Artefact = Callable[[Place], object]
ARTEFACTS: dict[str, Artefact] = {}
_NAMES = ("<img src=x onerror=alert(1)>", "\x1b[2J\x1b]0;owned\x07", "=HYPERLINK(A1)", "@SUM(1)", "a\r\nerror: b",
          "../../evil", "</script><script>alert(1)</script>", "${oc.env:HOME}", "\u202egnp.exe", "x" * 200,
          "%s%n")  # fmt: skip


class Evil:
    """A pickle that runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"echo evil_token > '{self.mark}'",)


def artefact(make: Artefact) -> Artefact:
    ARTEFACTS[make.__name__] = make
    return make


def model(**values) -> Artefact:
    return lambda place: change(
        place.run / "checkpoints" / "best.json", **{f"model__{k}": v for k, v in values.items()}
    )


def record(**values) -> Artefact:
    return lambda place: change(place.run / "record.json", **values)


def command(place: Place) -> str:
    return f"echo evil_token > '{place.outside}/mark'"


def evil_pickle(place: Place) -> bytes:
    return pickle.dumps({"state_dict": Evil(place.outside / "mark"), "hyper_parameters": {}})


def write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


ARTEFACTS |= {
    "target_direct": lambda p: model(_target_="os.system", command=command(p))(p),
    "target_aliased": lambda p: model(_target_="logging.os.system", command=command(p))(p),
    "target_below_ours": lambda p: model(_target_="segsweep.files.os.system", command=command(p))(p),
    "target_of_ours_that_writes": lambda p: model(
        _target_="segsweep.files.write_atomic", path=str(p.outside / "mark"), data="evil_token"
    )(p),
    "target_numpy_load": lambda p: [
        write(p.run / "evil.npy", pickle.dumps(Evil(p.outside / "mark"))),
        model(_target_="numpy.load", file=str(p.run / "evil.npy"), allow_pickle=True)(p),
    ],
    "target_open": lambda p: model(_target_="builtins.open", file=str(p.outside / "mark"), mode="w")(p),
    "target_eval": lambda p: model(_target_="builtins.eval", source="__import__('os').getcwd() + 'evil_token'")(p),
    "target_torch_load": lambda p: [
        write(p.run / "evil.pt", evil_pickle(p)),
        model(_target_="torch.load", f=str(p.run / "evil.pt"), weights_only=False)(p),
    ],
    "target_hub": model(_target_="torch.hub.load", repo_or_dir="evil/evil", model="evil"),
    "target_own_module": lambda p: [
        write(p.run / "evil_module.py", f"open({str(p.outside / 'mark')!r}, 'w')\nclass Net: pass\n"),
        model(_target_="evil_module.Net")(p),
    ],
    "target_nested": lambda p: model(widths={"_target_": "os.system", "command": command(p)})(p),
    "target_in_a_list": lambda p: model(widths=[8, {"_target_": "os.system", "command": command(p)}])(p),
    "target_in_options": lambda p: model(
        _target_="segsweep.models.smp.SMP", arch="Unet", encoder_name="resnet18", options={"_target_": "os.system"}
    )(p),
    "hydra_args": lambda p: model(_args_=[command(p)])(p),
    "hydra_convert": model(_convert_="all", _recursive_=True),
    "instantiator": lambda p: model(_instantiator="os.system", _class_path="os.system")(p),
    "target_a_list": model(_target_=["os.system"]),
    "weights_from_an_address": model(
        _target_="segsweep.models.smp.SMP", arch="Unet", encoder_name="resnet18", encoder_weights="http://127.0.0.1:9/x",
        widths=None,
    ),
    "encoder_from_a_hub": model(_target_="segsweep.models.smp.SMP", arch="Unet", encoder_name="tu-hf-hub:evil/evil"),
    "path_among_arguments": lambda p: model(widths=str(p.outside / "secret"))(p),
    "model_of_terabytes": model(widths=[16000, 16000, 16000]),
    "model_of_thousands_of_layers": model(widths=[8] * 900),
    "weights_a_pickle": lambda p: rewrite(p.run / "checkpoints" / "best.safetensors", evil_pickle(p)),
    "weights_of_a_long_header": lambda p: rewrite(
        p.run / "checkpoints" / "best.safetensors", struct.pack("<Q", 1 << 40) + b"{}"
    ),
    "weights_of_gigabytes": lambda p: os.truncate(p.run / "checkpoints" / "best.safetensors", 1 << 36),
    "checkpoint_a_pickle": lambda p: write(p.run / "checkpoints" / "last-0.ckpt", evil_pickle(p)),
    "hydra_pickles": lambda p: [
        write(p.run / ".hydra" / name, evil_pickle(p)) for name in ("config.pickle", "job_return.pickle")
    ],
    "confusion_of_objects": lambda p: np.savez(
        p.run / "test_confusion.npz", confusion=np.array([Evil(p.outside / "mark")], object), names=np.array(["a"])
    ),
    "yaml_tags": lambda p: [
        write(p.run / name, f"a: !!python/object/apply:os.system [{command(p)!r}]\n")
        for name in ("config.yaml", ".hydra/config.yaml")
    ],
    "yaml_of_hydra": lambda p: write(
        p.run / ".hydra" / "hydra.yaml",
        f"hydra:\n  launcher: {{_target_: os.system, command: {command(p)!r}}}\n"
        "  job_logging: {handlers: {a: {(): os.system}}}\n",
    ),
    "yaml_bomb": lambda p: write(
        p.run / "config.yaml",
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)),
    ),
    "environment_in_the_config": lambda p: [
        write(p.run / "config.yaml", "a: ${oc.env:EVIL_SECRET}\n"),
        record(config__data__class_names=["${oc.env:EVIL_SECRET}", *map(str, range(10))])(p),
    ],
    "record_without_end": lambda p: write(p.run / "record.json", '{"a":' * 100_000),
    "record_of_endless_numbers": lambda p: write(
        p.run / "record.json",
        (p.run / "record.json").read_text().replace('"seed": 0', f'"seed": {"1" * 5000}'),
    ),
    "masks_of_no_convention": record(config__data__label_map={"0": 1.5}),
    "record_of_another_shape": lambda p: write(p.run / "record.json", '{"config": [[[]]], "metrics": 7, "choices": 3}'),
    "record_with_wrong_types": record(metrics=["a"], choices=[1], overrides={"a": {}}, data=3, floors="x", seed="y"),
    "data_target": lambda p: record(config__data___target_="os.system", config__data__command=command(p))(p),
    "data_nested": lambda p: record(config__data__digit_size={"_target_": "os.system", "command": command(p)})(p),
    "data_downloaded": record(
        config__data__download=True, config__data__downloader="os.system", config__data__obtain="evil_token"
    ),
    "data_outside": lambda p: _folder_data(p, images="../outside/{stem}.*", masks="../outside/{stem}.*"),
    "data_at_the_root": lambda p: _folder_data(p, images=f"{p.outside}/{{stem}}.*", masks=f"{p.outside}/{{stem}}.*"),
    "data_in_a_list_outside": lambda p: _folder_data(
        p, images="{stem}.*", masks="{stem}.*", splits={"train": "../outside/secret", "val": 0.2, "test": 0.2}
    ),
    "data_of_a_million_scenes": record(config__data__num_train=10**15),
    "projector": lambda p: write(
        p.run / "projector_config.pbtxt",
        f'embeddings {{ tensor_path: "{p.outside}/secret" metadata_path: "{p.outside}/secret" }}',
    ),
    "events_of_noise": lambda p: write(p.run / "events.out.tfevents.1.evil", os.urandom(5000)),
    "hostile_class_names": record(config__data__class_names=list(_NAMES)),
    "onnx_with_external_data": lambda p: [write(folder / "model.onnx", _onnx(p)) for folder in (p.run, p.out)],
}  # fmt: skip


@artefact
def duplicate_names(p: Place) -> None:
    entry = json.dumps({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
    header = f'{{"a": {entry}, "a": {entry}}}'.encode()
    rewrite(p.run / "checkpoints" / "best.safetensors", struct.pack("<Q", len(header)) + header + bytes(4))


@artefact
def record_a_link(p: Place) -> None:
    os.rename(p.run / "record.json", p.outside / "record.json")
    os.symlink(p.outside / "record.json", p.run / "record.json")


@artefact
def checkpoints_a_link(p: Place) -> None:
    os.rename(p.run / "checkpoints", p.outside / "checkpoints")
    os.symlink(p.outside / "checkpoints", p.run / "checkpoints")


@artefact
def weights_a_pipe(p: Place) -> None:
    (p.run / "checkpoints" / "best.safetensors").unlink()
    os.mkfifo(p.run / "checkpoints" / "best.safetensors")


@artefact
def outputs_are_links(p: Place) -> None:
    """Whoever shares the output folder has laid links where files will be written."""
    for name in (
        "predictions.jsonl",
        "run.json",
        "record.json",
        "images.csv",
        "index.html",
        "model.onnx",
        "good.png",
    ):
        if not (p.out / name).exists():
            os.symlink(p.outside / "secret", p.out / name)


@artefact
def files_of_a_run_are_links(p: Place) -> None:
    """The same for whoever trains there."""
    for name in ("metrics.jsonl", "config.yaml", "log.txt", "test_confusion.npz"):
        os.symlink(p.outside / "secret", p.out / name)


@artefact
def lock_is_a_link(p: Place) -> None:
    os.symlink(p.outside / "secret", p.out / ".lock")


@artefact
def image_bomb(p: Place) -> None:
    """A PNG of 60,000 x 60,000 pixels in some kilobytes."""
    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    write(p.images / "bomb.png", _png((b"IHDR", size), (b"IDAT", zlib.compress(bytes(10_000))), (b"IEND", b"")))


@artefact
def mask_bomb(p: Place) -> None:
    """The same as the mask of the good image."""
    image_bomb(p._replace(images=p.masks))
    os.replace(p.masks / "bomb.png", p.masks / "good.png")


@artefact
def mask_a_link(p: Place) -> None:
    (p.masks / "good.png").unlink()
    os.symlink(p.outside / "secret.png", p.masks / "good.png")


@artefact
def image_with_pages_without_end(p: Place) -> None:
    """An array whose header promises a million million pages, and holds none."""
    with (p.images / "pages.npy").open("wb") as file:
        about = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 48, 48)}
        np.lib.format.write_array_header_1_0(file, about)


@artefact
def predictions_of_pages_without_end(p: Place) -> None:
    """What a folder of predictions says of the good image, had it been predicted by this run."""
    sha256 = hashlib.sha256((p.images / "good.png").read_bytes()).hexdigest()
    line = {
        "input": "../images/good.png", "page": 5, "pages": 10**12, "sha256": sha256, "base": "good", "files": {},
        "size": [10**9, 10**9], "seen": [10**9, 10**9],
    }  # fmt: skip
    known = p.out.parents[1] / "good" / "out" / "predictions.jsonl"
    head = known.read_text().splitlines()[0] if known.exists() else '{"schema": 1}'
    write(p.out / "predictions.jsonl", f"{head}\n{json.dumps(line)}\n")


@artefact
def image_with_a_text_bomb(p: Place) -> None:
    about = PngImagePlugin.PngInfo()
    about.add_text("comment", "x" * (200 << 20), zip=True)
    Image.new("L", (48, 48)).save(p.images / "text.png", pnginfo=about)


@artefact
def image_a_program(p: Place) -> None:
    """What Pillow would hand to Ghostscript, by its content."""
    write(p.images / "page.png", f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%{command(p)}) (w) file\n")


@artefact
def image_an_object_array(p: Place) -> None:
    np.save(p.images / "array.npy", np.array([Evil(p.outside / "mark")], object), allow_pickle=True)


@artefact
def image_a_link(p: Place) -> None:
    os.symlink(p.outside / "secret.png", p.images / "link.png")


@artefact
def image_names(p: Place) -> None:
    for name in ("=cmd|' ' !A1.png", "\x1b[31mred.png", "<script>alert(1)<script>.png", "a\nb.png", "-rf.png", "..png"):
        Image.new("L", (48, 48), 99).save(p.images / name, format="PNG")


def _folder_data(p: Place, **values) -> None:
    """Data in files whose patterns lead elsewhere."""
    node = json.loads((p.run / "record.json").read_text())["config"]["data"]
    folder = {
        "_target_": "segsweep.data.folder.Folder", "unlabelled": None, "valid": None, "group_by": None, "fold": None,
        "num_folds": None, "split_seed": 0, "exclude": [], "label_map": None, "threshold": None, "palette": None,
        "scale": None, "alpha": None, "exif": None, "page": None, "follow_links": True,
        "splits": {"train": None, "val": 0.2, "test": 0.2}, **values,
    }  # fmt: skip
    change(p.run / "record.json", config__data={**node, **folder})


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _onnx(p: Place) -> bytes:
    import onnx
    from onnx import TensorProto, helper

    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], bytes(4), raw=True)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=f"../../..{p.outside}/secret")
    graph = helper.make_graph([], "evil", [], [], [tensor])
    return onnx.helper.make_model(graph).SerializeToString()
