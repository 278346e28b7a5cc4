from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import sharding.writing.write
from lightning_audio import audio
from sharding.checking.check import check
from sharding.sources import find_clips
from sharding.writing.write import ShardReport, write_shards

SETTINGS: dict[str, Any] = {"sample_rate": 8000, "channels": 1, "samples_per_shard": 2, "chunk_duration": 0.5}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """20 clips of which one is broken, one silent and one there twice."""
    folder = tmp_path / "in"
    generator = torch.Generator().manual_seed(0)
    for i in range(20):
        wav = 0.2 * torch.randn(1, 4000 + 700 * i, generator=generator)
        audio.write(folder / f"{i:02d}.wav", wav * (i != 3), 11025)
    (folder / "04.wav").write_bytes(b"no audio")
    (folder / "twin.wav").write_bytes((folder / "10.wav").read_bytes())
    return folder


def shard(source: Path, out: Path, **more: Any) -> ShardReport:
    return write_shards(find_clips(source), out, **(SETTINGS | more))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.slow
def test_workers_and_parts_make_the_same_bytes(source: Path, tmp_path: Path) -> None:
    whole = shard(source, tmp_path / "one")
    assert {skip.name: skip.reason.split(":")[0] for skip in whole.skipped} == {
        "03.wav": "silent",
        "04.wav": "audio data is no audio that can be read",
        "twin.wav": "the same audio as 10.wav in train",
    }
    shard(source, tmp_path / "two", workers=2)
    for part in (2, 0):
        report = shard(source, tmp_path / "parts", part=(part, 3))
        assert (report.splits, report.num_missing > 0) == ({}, True)
        assert not (tmp_path / "parts").exists()
    last = shard(source, tmp_path / "parts", part=(1, 3), workers=2)
    assert last.splits == whole.splits
    assert last.skipped == whole.skipped
    assert tree(tmp_path / "one") == tree(tmp_path / "two") == tree(tmp_path / "parts")
    assert hidden(tmp_path) == []
    assert check(tmp_path / "one").ok
    # A part that is started again, or late, finds the work done.
    again = shard(source, tmp_path / "parts", part=(1, 3))
    assert again.splits == whole.splits
    assert again.skipped == whole.skipped
    with pytest.raises(FileExistsError, match="exists already"):
        shard(source, tmp_path / "parts", part=(1, 3), channels=2)


def test_an_interrupted_run_goes_on_with_what_is_there(source: Path, tmp_path: Path) -> None:
    shard(source, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shard(source, tmp_path / "out", progress=stop)
    assert not (tmp_path / "out").exists()
    [partial] = hidden(tmp_path)
    tars = sorted((tmp_path / partial / "dataset").glob("*/*.tar"))
    assert len(tars) >= 4
    before = {tar.relative_to(tmp_path / partial / "dataset"): tar.stat().st_mtime_ns for tar in tars}
    seen: list[tuple[int, int]] = []
    report = shard(source, tmp_path / "out", progress=lambda *at: seen.append(at))
    assert report.num_found == len(tars)
    assert seen[0] == (8, 20)  # of 21 clips one is left out before
    assert seen[-1] == (20, 20)
    after = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before}
    assert after == before
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut tar", "no tar", "cut index", "no index", "cut receipt"])
def test_a_shard_that_is_not_as_it_was_left_is_written_again(
    damage: str, source: Path, tmp_path: Path
) -> None:
    shard(source, tmp_path / "whole")
    assert shard(source, tmp_path / "out", part=(0, 2)).num_missing
    partial = tmp_path / hidden(tmp_path)[0]
    what, kind = damage.split()
    patterns = {"tar": "dataset/*/*.tar", "index": "dataset/*/*.index.json", "receipt": "receipts/*"}
    victim = sorted(partial.glob(patterns[kind]))[0]
    data = victim.read_bytes()
    victim.unlink()
    if what == "cut":
        victim.write_bytes(data[:-1])
    num_done = len(list(partial.glob("receipts/*")))
    report = shard(source, tmp_path / "out")
    assert report.num_found == num_done - 1
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_another_setting_or_source_starts_anew(source: Path, tmp_path: Path) -> None:
    shard(source, tmp_path / "out", part=(0, 2))
    with pytest.warns(UserWarning, match=r"have changed since an interrupted run .*starting anew"):
        report = shard(source, tmp_path / "out", sample_rate=16000)
    assert report.num_found == 0
    assert report.splits["train"].sample_rates.keys() == {16000}
    assert hidden(tmp_path) == []
    shard(source, tmp_path / "other", part=(0, 2))
    (tmp_path / ".other.b.0123456789ab.partial").mkdir()  # of a dataset named "other.b"
    audio.write(source / "05.wav", 0.1 * torch.randn(1, 7500), 11025)
    with pytest.warns(UserWarning, match="starting anew"):
        assert shard(source, tmp_path / "other").num_found == 0
    assert hidden(tmp_path) == [".other.b.0123456789ab.partial"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_parts_that_finish_at_once_all_end_well(
    overwrite: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shard(source, tmp_path / "whole")
    if overwrite:
        shard(source, tmp_path / "out", channels=2)
    with monkeypatch.context() as patch:  # all shards are there, and nobody has looked
        patch.setattr(sharding.writing.write, "_finish", lambda *_: None)
        shard(source, tmp_path / "out", overwrite=overwrite)
    describe = sharding.writing.write.describe

    def slowly(*arguments: Any, **more: Any) -> Any:
        time.sleep(0.05)  # so that all of them come to it
        return describe(*arguments, **more)

    monkeypatch.setattr(sharding.writing.write, "describe", slowly)
    with ThreadPoolExecutor(6) as pool:
        runs = [
            pool.submit(shard, source, tmp_path / "out", part=(number, 6), overwrite=overwrite)
            for number in range(6)
        ]
        assert all(run.result().splits == whole.splits for run in runs)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert hidden(tmp_path) == []


RUN = """
import sys
from sharding.sources import find_clips
from sharding.writing.write import write_shards

if __name__ == "__main__":
    write_shards(find_clips(sys.argv[1]), sys.argv[2], workers=2, sample_rate=8000, channels=1,
                 samples_per_shard=2, chunk_duration=0.5)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_and_leaves_no_workers(source: Path, tmp_path: Path) -> None:
    shard(source, tmp_path / "whole")
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, str(tmp_path / "run.py"), str(source), str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    num_killed = 0
    for wanted in (1, 4):
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        while process.poll() is None:
            receipts = [path for name in hidden(tmp_path) for path in (tmp_path / name).glob("receipts/*")]
            if len(receipts) >= wanted:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        num_killed += process.wait() == -signal.SIGKILL
        deadline = time.monotonic() + 30
        while members_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert members_of(process.pid) == []
    assert num_killed >= 1
    report = shard(source, tmp_path / "out")
    assert report.num_found >= 1
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert hidden(tmp_path) == []


def members_of(session: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session_id = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session_id) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


def test_errors_come_before_any_work(source: Path, tmp_path: Path) -> None:
    for settings, says in (
        ({"part": (3, 3)}, "part 3 of 3: parts are numbered from 0 to 2"),
        ({"min_duration": 1.0}, "chunks of 0.5 s are all shorter than min_duration, 1.0 s"),
        ({"workers": 0}, "at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=says):
            shard(source, tmp_path / "out", **settings)
    assert hidden(tmp_path) == []


def test_the_plan_stands_with_the_dataset(source: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shard(source, tmp_path / "out")
    made = json.loads((tmp_path / "out/plan.json").read_text())
    assert made["num_clips"] == 20
    assert made["settings"]["sample_rate"] == 8000
