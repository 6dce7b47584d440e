"""Opens hostile run folders with one command under an audit hook (PEP 578): a program of its own, run by test_hostile.

    python -m tests.audited COMMAND FOLDER [ARTEFACT...]

Prints a line of JSON for each artefact: exit code, what was printed, and the forbidden events that the hook saw. The
command has done its work on a good run before the hook is armed, so that what it imports is loaded. COMMAND ``none``
is the control: the artefacts are opened as a careless program would.
"""

import contextlib
import importlib
import io
import json
import os
import pickle
import shutil
import sys
import traceback
from pathlib import Path

import numpy as np
from PIL import Image

import segsweep
from tests.finished import DIGITS, write_finished
from tests.hostile import ARTEFACTS, Place
from tests.narrow import NARROW

_FORBIDDEN = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn",
              "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind",
              "urllib.Request", "webbrowser.open")  # fmt: skip
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
            "os.chown", "os.utime", "shutil.rmtree", "shutil.copyfile", "shutil.move")  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
COMMANDS = {
    "report": ("report.command", lambda p: [p.run, "--out", p.out]),
    "evaluate": ("evaluate.command", lambda p: [p.run, "--out", p.out, "--device", "cpu", *_root(p)]),
    "predict": ("predict.command", lambda p: [p.run, p.images, "--out", p.out, "--device", "cpu"]),
    "export": ("export.command", lambda p: [*_export(p)]),
    "export-images": ("export.command", lambda p: [*_export(p), "--images", p.images]),
    "export-int8": ("export.command", lambda p: [*_export(p), "--quantize", "int8", *_root(p)]),
    "explain": ("explain.command", lambda p: [p.run, p.images / "good.png", "--out", p.out]),
    "explain-test": (
        "explain.command",
        lambda p: [p.run, "--test", 0, "--only", "uncertainty", "--out", p.out, *_root(p)],
    ),
    "explain-masks": (
        "explain.command",
        lambda p: [p.run, p.images, "--masks", p.masks, "--only", "calibration", "--out", p.out],
    ),
    "init_from": ("__main__", lambda p: [f"init_from={p.run}", *_TINY, f"hydra.run.dir={p.out}"]),
}
_TINY = ["model=unet", *NARROW["unet"], *DIGITS, "data.batch_size=4", "trainer=cpu", "trainer.max_epochs=1"]


def _export(place: Place) -> list:
    # Timing would have child processes of our own, which have no hook.
    return [place.run, "--out", place.out, "--format", "onnx", "--rounds", 0]


def _root(place: Place) -> list:
    """What a user types whose run was trained on files."""
    is_folder = "data.folder.Folder" in (place.run / "record.json").read_text()[: 1 << 20]
    return ["--root", place.images] if is_folder else []


class Hook:
    """Notes forbidden events while it is armed."""

    def __init__(self) -> None:
        self.place: Place | None = None
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        place, self.place = self.place, None  # what the hook itself does is none of its business
        try:
            if place is not None and self._is_forbidden(place, event, arguments):
                self.seen.append(f"{event} {str(arguments)[:200]}")
        finally:
            self.place = place

    def _is_forbidden(self, place: Place, event: str, arguments: tuple) -> bool:
        if event.startswith(_FORBIDDEN):
            return event != "subprocess.Popen" or not self._asks_for_own_commit(arguments)
        if event == "import":
            return str(arguments[0]).startswith("evil")
        if event == "compile":
            return "evil_token" in str(arguments[0])
        if event == "exec":
            file = arguments[0].co_filename
            return os.path.isabs(file) and self._is_below(file, place.run, place.outside, place.images)
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, int) or path is None:
                return False
            writes = bool(flags & _WRITES) if isinstance(flags, int) else any(c in str(mode) for c in "wax+")
            return self._is_below(os.path.realpath(path), place.outside) or (
                writes and not self._may_write(place, path)
            )
        if event in ("os.listdir", "os.scandir"):
            listed = arguments[0]
            return not isinstance(listed, int) and self._is_below(os.path.realpath(listed or "."), place.outside)
        if event == "ctypes.dlopen":  # libraries of the system are named without a folder
            library = arguments[0] or ""
            return os.sep in library and self._is_below(library, place.run, place.images, place.outside)
        if event in _CHANGES:
            paths = [path for path in arguments if isinstance(path, str | bytes | os.PathLike)]
            if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:  # relative to an open folder
                paths = [os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), os.fsdecode(paths[0]))]
            return not all(self._may_write(place, path) for path in paths)
        return False

    def _may_write(self, place: Place, path) -> bool:
        own = (place.out, Path(os.environ["SEGSWEEP_CACHE"]), Path(os.environ["TMPDIR"]))
        return self._is_below(path, *own) or str(path) in (os.devnull, "/proc/self/clear_refs")

    @staticmethod
    def _asks_for_own_commit(arguments: tuple) -> bool:
        """A training notes the commit of segsweep itself: of no folder that is named or worked in."""
        program, line, folder, environment = arguments
        own = ["git", "-C", os.path.dirname(segsweep.__file__)]
        return program == "git" and list(line[:3]) == own and folder is None and environment is None

    @staticmethod
    def _is_below(path, *folders: Path) -> bool:
        # The folder of the file, followed through links, and its own name: a link is replaced, not written through.
        parent, name = os.path.split(os.path.abspath(os.fsdecode(path)))
        real = os.path.join(os.path.realpath(parent), name)
        return any(Path(real).is_relative_to(folder.resolve()) for folder in folders)


def prepare(folder: Path, base: Path) -> Place:
    """A good run, a good image, and places for output and harm."""
    place = Place(*(folder / name for name in Place._fields))
    shutil.copytree(base, place.run)
    for path in place[1:]:
        path.mkdir()
    (place.outside / "secret").write_text("evil_secret")
    Image.new("L", (48, 48), 70).save(place.outside / "secret.png")
    noise = np.random.default_rng(0).integers(0, 255, (48, 48), np.uint8)
    Image.fromarray(noise).save(place.images / "good.png")
    Image.fromarray(noise // 25).save(place.masks / "good.png")
    return place


def typed(command: str, place: Place) -> list[str]:
    """The line that a user types."""
    return ["segsweep", *map(str, COMMANDS[command][1](place))] if command in COMMANDS else []


def run(command: str, line: list[str]) -> tuple[int | str | None, str]:
    """Exit code of a command, or the traceback that it ended with, and everything that it printed."""
    module, printed = COMMANDS[command][0], io.StringIO()
    sys.argv = line
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            importlib.import_module(f"segsweep.{module}").main()
            code: int | str | None = 0
        except SystemExit as error:
            code = error.code or 0
        except BaseException:
            code = traceback.format_exc()
    return code, printed.getvalue()


def careless(place: Place) -> None:
    """What programs do that trust a folder."""
    import torch
    import yaml
    from hydra.utils import instantiate

    attempts = [
        lambda: yaml.unsafe_load((place.run / "config.yaml").read_text()),
        lambda: yaml.unsafe_load((place.run / ".hydra" / "config.yaml").read_text()),
        lambda: torch.load(place.run / "checkpoints" / "last-0.ckpt", weights_only=False),
        lambda: pickle.loads((place.run / "checkpoints" / "best.safetensors").read_bytes()),
        lambda: np.load(place.run / "test_confusion.npz", allow_pickle=True)["confusion"],
        lambda: np.load(place.images / "array.npy", allow_pickle=True),
        lambda: [torch.load(file, weights_only=False) for file in (place.run / ".hydra").glob("*.pickle")],
        lambda: instantiate(_payload(place)),
        lambda: instantiate(json.loads((place.run / "record.json").read_text())["config"]["data"]),
        lambda: json.loads((place.run / "record.json").read_text()),
        lambda: [file.read_bytes() for file in place.images.iterdir()],
    ]
    for attempt in attempts:
        with contextlib.suppress(Exception):
            attempt()


def _payload(place: Place) -> dict:
    """The node of the model without the arguments of the good one."""
    node = json.loads((place.run / "checkpoints" / "best.json").read_text())["model"]
    return {key: value for key, value in node.items() if key not in ("family", "in_channels", "num_classes", "widths")}


def main() -> None:
    command, folder, *names = sys.argv[1:]
    base = write_finished(Path(folder) / "base")
    hook = Hook()
    good = prepare(_made(Path(folder) / "good"), base)
    if command != "none":
        code, printed = run(command, typed(command, good))
        print(json.dumps({"artefact": None, "code": code, "printed": printed, "events": []}), flush=True)
    sys.path.insert(0, folder)  # where a class of the run folder would be found
    for name in names or ARTEFACTS:
        place = prepare(_made(Path(folder) / name), base)
        ARTEFACTS[name](place)
        os.chdir(place.run)
        sys.path[0] = str(place.run)
        line = typed(command, place)
        hook.seen = []
        hook.place = place
        try:
            code, printed = (careless(place), "") if command == "none" else run(command, line)
        finally:
            hook.place = None
        marks = [path.name for path in place.outside.iterdir() if path.name == "mark"]
        changed = (place.outside / "secret").read_text() != "evil_secret"
        events = hook.seen + [f"left {mark}" for mark in marks] + ["secret changed"] * changed
        print(json.dumps({"artefact": name, "code": code, "printed": printed, "events": events}), flush=True)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    main()
