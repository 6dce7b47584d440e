import json
import multiprocessing
import os
import signal
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from segsweep.endings import ExitError, killed_s
from segsweep.redaction import redact
from segsweep.run import ConfigError, flatten, new_folder, open_run, read_record
from segsweep.signals import Interrupted

FACTS = {"fingerprint": "f1", "config": {"model": {"width": 8}, "seed": 0}, "sweep": None}


def _claim(parent):
    return new_folder(parent, "2026-01-01_00-00-00_digits_unet").name


def test_starts_in_the_same_second_never_share_a_folder(tmp_path):
    with multiprocessing.get_context("fork").Pool(8) as pool:
        names = pool.map(_claim, [tmp_path] * 200, chunksize=1)
    assert len(set(names)) == 200
    assert len(list(tmp_path.iterdir())) == 200


def test_a_taken_name_is_drawn_again(tmp_path, monkeypatch):
    draws = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("secrets.token_hex", lambda _: next(draws))
    assert [new_folder(tmp_path, "x").name for _ in range(2)] == ["x_aaaa", "x_bbbb"]


def test_a_run_goes_from_running_to_completed(tmp_path):
    with open_run(tmp_path, FACTS) as run:
        assert read_record(tmp_path)["status"] == "running"
        run.save(metrics={"test/miou": float("nan")})
    record = read_record(tmp_path)
    assert record["status"] == "completed"
    assert record["metrics"] == {"test/miou": None}  # JSON has no NaN
    assert record["wall_s"] >= 0
    assert record["finished"] >= record["started"]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate"), "failed", "oom"),
        (ValueError("bad"), "failed", "ValueError"),
        (ConfigError("bad"), "failed", "config"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (Interrupted(signal.SIGTERM), "interrupted", "SIGTERM"),
        (Interrupted(signal.SIGINT), "interrupted", "SIGINT"),
    ],
)
def test_how_a_run_ended_is_recorded_and_raised_again(tmp_path, error, status, kind):
    with pytest.raises(type(error)), open_run(tmp_path, FACTS):
        raise error
    record = read_record(tmp_path)
    assert record["status"] == status
    assert record["error"]["class"] == kind


@pytest.mark.parametrize("code", [0, 3, 143, None, "text"])
def test_an_exit_of_code_inside_a_run_is_a_failure(tmp_path, code):
    with pytest.raises(ExitError, match=f"sys.exit\\({code!r}\\)"), open_run(tmp_path, FACTS):
        sys.exit(code)
    record = read_record(tmp_path)
    assert (record["status"], record["error"]["class"]) == ("failed", "exit")


def test_the_time_of_a_killed_session_counts(tmp_path):
    with open_run(tmp_path, FACTS):
        pass
    record = read_record(tmp_path)
    started = datetime.fromisoformat(record["started"])
    killed = {**record, "status": "running", "wall_s": 5.0, "started": (started - timedelta(hours=1)).isoformat()}
    (tmp_path / "record.json").write_text(json.dumps(killed))
    os.utime(tmp_path / "record.json", (started.timestamp() - 3600,) * 2)
    (tmp_path / "metrics.jsonl").touch()
    os.utime(tmp_path / "metrics.jsonl", (started.timestamp() - 3500,) * 2)
    (tmp_path / ".record.json-x.unfinished").touch()
    with open_run(tmp_path, FACTS):
        assert read_record(tmp_path)["wall_s"] == 105  # nobody knows how long the next one lives
    assert read_record(tmp_path)["wall_s"] == pytest.approx(105, abs=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "metrics.jsonl", "record.json"]


def test_files_of_a_copy_say_nothing_of_a_killed_session(tmp_path):
    started = datetime.now(UTC) - timedelta(days=7)
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "config.yaml").touch()
    killed = {"status": "running", "started": started.isoformat()}
    assert killed_s(tmp_path, killed) == 0
    os.utime(tmp_path / "config.yaml", (started.timestamp() + 1,) * 2)
    os.utime(tmp_path / "metrics.jsonl", (started.timestamp() + 90,) * 2)
    assert killed_s(tmp_path, killed) == pytest.approx(90, abs=0.1)


def test_a_completed_run_is_left_alone(tmp_path):
    with open_run(tmp_path, FACTS) as run:
        run.save(answer=42)
    before = (tmp_path / "record.json").read_bytes()
    with open_run(tmp_path, FACTS) as run:
        assert run.is_completed
        assert run.record["answer"] == 42
    assert (tmp_path / "record.json").read_bytes() == before


def test_a_failed_run_is_tried_again(tmp_path):
    with pytest.raises(ValueError, match="first"), open_run(tmp_path, FACTS):
        raise ValueError("first")
    with open_run(tmp_path, FACTS) as run:
        assert not run.is_completed
    assert read_record(tmp_path)["status"] == "completed"
    assert read_record(tmp_path)["error"] is None


def test_another_config_under_the_same_name_is_refused_with_its_keys(tmp_path):
    with open_run(tmp_path, FACTS):
        pass
    other = {**FACTS, "fingerprint": "f2", "config": {"model": {"width": 16}, "seed": 0}}
    with pytest.raises(ConfigError, match=r"model.width: 8 -> 16.*another name="), open_run(tmp_path, other):
        pass
    assert read_record(tmp_path)["fingerprint"] == "f1"


def _hold(folder, ready):
    with open_run(folder, FACTS):
        ready.set()
        time.sleep(60)


def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(ConfigError, match="being run by another process"), open_run(tmp_path, FACTS):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert read_record(tmp_path)["status"] == "running"  # killed: nobody could write more
    with open_run(tmp_path, FACTS):
        pass
    assert read_record(tmp_path)["status"] == "completed"


def test_a_sweep_keeps_a_ledger(tmp_path):
    for job in ("a", "b"):
        (tmp_path / job).mkdir()
    with open_run(tmp_path / "a", {**FACTS, "sweep": "s"}):
        pass
    with pytest.raises(ValueError, match="x"), open_run(tmp_path / "b", {**FACTS, "sweep": "s"}):
        raise ValueError("x")
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert [(line["job"], line["status"]) for line in lines] == [
        ("a", "running"), ("a", "completed"), ("b", "running"), ("b", "failed"),
    ]  # fmt: skip
    assert lines[-1]["error"] == {"class": "ValueError", "message": "x"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}'])
def test_what_is_no_record_is_named(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(ValueError, match=r"record.json: not a run record"):
        read_record(tmp_path)


@pytest.mark.parametrize("name", [".lock", "record.json", "config.yaml", "log.txt", "metrics.jsonl"])
def test_links_that_wait_for_a_run_are_not_followed(tmp_path, name):
    secret = tmp_path / "secret"
    secret.write_text('{"status": "completed"}')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(secret)
    with pytest.raises(ValueError, match=rf"run/{name}.* link.* Remove"), open_run(tmp_path / "run", FACTS):
        pass
    assert secret.read_text() == '{"status": "completed"}'


def test_secrets_are_redacted_at_any_depth():
    config = {"a": {"api_key": "k", "b": [{"password": "p"}]}, "token": None, "lr": 1}
    assert redact(config) == {"a": {"api_key": "<redacted>", "b": [{"password": "<redacted>"}]}, "token": None, "lr": 1}


def test_flatten_keeps_lists():
    assert flatten({"a": {"b": [1, 2]}, "c": {}}) == {"a.b": [1, 2]}
