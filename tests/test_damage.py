"""Checkpoints that are truncated, rotten or half written are refused by name, and the one before is used."""

import os
import random
import signal

import pytest
import torch

from segsweep import checkpoints, files
from segsweep.checkpoints import HashedCheckpointIO, newest_whole
from segsweep.files import remove_unfinished

TRUNCATIONS, FLIPS, KILLS = 20, 200, 25


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints, the newer one whole as well."""
    for epoch in range(2):
        HashedCheckpointIO().save_checkpoint(content(epoch), tmp_path / f"last-{epoch}.ckpt")
    return tmp_path


def content(epoch):
    generator = torch.Generator().manual_seed(epoch)
    return {"epoch": epoch, "state_dict": {f"w{i}": torch.randn(50, 20, generator=generator) for i in range(20)}}


def damages(data):
    """Every damaged version of some bytes."""
    draw = random.Random(0)
    for i in range(TRUNCATIONS):
        yield data[: i * len(data) // TRUNCATIONS]
    for _ in range(FLIPS):
        flipped = bytearray(data)
        flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        yield bytes(flipped)


def refused(folder, caplog):
    """How many damaged versions of the newest checkpoint are refused by name, the one before taking its place."""
    newest, num = folder / "last-1.ckpt", 0
    data = newest.read_bytes()
    for damaged in damages(data):
        newest.write_bytes(damaged)
        caplog.clear()
        num += newest_whole(folder) == folder / "last-0.ckpt" and "last-1.ckpt: damaged" in caplog.text
    newest.write_bytes(data)
    assert newest_whole(folder) == newest
    return num


def test_all_damage_is_refused_by_name(folder, caplog):
    assert refused(folder, caplog) == TRUNCATIONS + FLIPS
    (folder / "last-1.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"last-1.ckpt: damaged"):
        HashedCheckpointIO().load_checkpoint(folder / "last-1.ckpt")


def test_without_the_hash_damage_is_accepted(folder, caplog, monkeypatch):
    monkeypatch.setattr(checkpoints, "read_hashed", lambda path: path.read_bytes())
    assert refused(folder, caplog) == 0
    newest, loaded = folder / "last-1.ckpt", 0
    for damaged in list(damages(newest.read_bytes()))[TRUNCATIONS:]:
        newest.write_bytes(damaged)
        try:
            loaded += (
                HashedCheckpointIO().load_checkpoint(newest)["state_dict"].keys() == content(1)["state_dict"].keys()
            )
        except Exception:  # some hit the file's own structure
            continue
    assert loaded > 0.9 * FLIPS  # torch itself notices next to nothing


def test_a_checkpoint_within_an_epoch_lies_between_its_neighbours(tmp_path):
    names = ["last-0.ckpt", "last-1-9.ckpt", "last-1-12.ckpt", "last-1.ckpt", "last-2-100.ckpt", "last-10-3.ckpt"]
    for name in names:
        HashedCheckpointIO().save_checkpoint(content(0), tmp_path / name)
    for name in reversed(names):
        assert newest_whole(tmp_path).name == name
        (tmp_path / name).write_bytes(b"")
    assert newest_whole(tmp_path) is None


def killed_after(num, write):
    """Runs ``write`` in a child that is killed once it has written so many bytes; whether it was."""
    child = os.fork()
    if child == 0:
        left, fdopen = [num], os.fdopen

        class Dying:
            def __init__(self, handle, mode):
                self.file = fdopen(handle, mode)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.file.close()

            def write(self, data):
                self.file.write(bytes(data)[: left[0]])
                self.file.flush()
                if len(data) > left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= len(data)

            def __getattr__(self, name):
                return getattr(self.file, name)

        files.os.fdopen = Dying
        try:
            write()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the child does nothing with threads
@pytest.mark.parametrize(
    "name",  # a new one, and one that is written again
    [pytest.param("last-2.ckpt", marks=pytest.mark.slow), "last-1.ckpt"],
)
def test_a_kill_during_a_save_leaves_a_whole_checkpoint(folder, name):
    draw, kills = random.Random(1), 0
    size = (folder / "last-1.ckpt").stat().st_size
    for num in [0, 1, 63, 64, 65, *(draw.randrange(size) for _ in range(KILLS - 5))]:
        kills += killed_after(num, lambda: HashedCheckpointIO().save_checkpoint(content(2), folder / name))
        newest = newest_whole(folder)
        epoch = HashedCheckpointIO().load_checkpoint(newest)["epoch"]
        assert newest.name in ("last-0.ckpt", "last-1.ckpt")
        assert epoch in (0, 1)
        remove_unfinished(folder)
        assert not [path for path in folder.iterdir() if not path.name.startswith("last-")]
        HashedCheckpointIO().save_checkpoint(content(1), folder / "last-1.ckpt")
    assert kills == KILLS
    assert not killed_after(10**9, lambda: HashedCheckpointIO().save_checkpoint(content(2), folder / name))
    assert HashedCheckpointIO().load_checkpoint(newest_whole(folder))["epoch"] == 2
