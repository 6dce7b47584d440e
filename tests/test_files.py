import os
import threading

import pytest

from segsweep import files


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    files.write_atomic(path, b"old")

    def no_space(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "x"
    files.write_atomic(path, b"a" * 100_000)
    seen = set()
    stop = threading.Event()

    def read():
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for letter in (b"b", b"c", b"d"):
        files.write_atomic(path, letter * 100_000)
    stop.set()
    reader.join()
    assert seen <= {letter * 100_000 for letter in (b"a", b"b", b"c", b"d")}


def test_damage_is_noticed(tmp_path):
    path = tmp_path / "weights"
    files.write_hashed(path, b"0123456789")
    assert files.read_hashed(path) == b"0123456789"
    for damaged in (b"0123456788", b"01234", b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            files.read_hashed(path)


def test_a_file_without_its_digest_is_not_trusted(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match="damaged"):
        files.read_hashed(path)


def test_removal_takes_the_digest_along(tmp_path):
    files.write_hashed(tmp_path / "a", b"x")
    files.remove_hashed(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
