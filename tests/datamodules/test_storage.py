"""Shards that lie elsewhere: fetched once, checked, kept within bounds, and given up in bounded time."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from datamodules.index import DatasetIndex
from datamodules.shards import ShardReader
from datamodules.tokens import TokenDataModule
from lightning_audio.batch import AudioBatch
from sharding.storage.cache import ShardCache
from sharding.storage.download import PipeTransport, transport
from sharding.storage.folders import LocalFolder, open_splits


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; the server's `faults` say, by the path's end, what goes wrong, and how often."""

    server: Server

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        self.server.requests[path] += 1
        fault, times = self.server.faults.get(path, ("", 0))
        if self.server.requests[path] > times:
            super().do_GET()
        elif fault == "stall":
            self._begin()
            self.server.closing.wait(20)
        elif fault == "cut":
            self._begin()
        else:
            self.send_error(int(fault))

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"x" * 10)

    def log_message(self, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.requests: Counter[str] = Counter()
        self.faults: dict[str, tuple[str, int]] = {}
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture(scope="module")
def codes(make_codes: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remote")
    make_codes(folder, [7, 4, 9])
    return make_codes(folder, [3], split="valid")


@pytest.fixture
def server(codes: Path) -> Iterator[Server]:
    served = Server(codes)
    threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
    yield served
    served.closing.set()
    served.shutdown()
    served.server_close()


def cache(folder: Path, **settings: Any) -> ShardCache:
    return ShardCache(folder / "cache", **{"timeout": 10.0, "backoff": 0.01, **settings})


def take(path: str | Path, count: int, **settings: Any) -> list[AudioBatch]:
    module = TokenDataModule(path, **{"batch_size": 5, "num_frames": 10, **settings})
    module.setup("fit")
    loader = module.train_dataloader()
    batches = list(islice((batch for _ in iter(int, 1) for batch in loader), count))
    loader.close()
    return batches


def same(one: list[AudioBatch], other: list[AudioBatch]) -> bool:
    return all(
        a.keys == b.keys and torch.equal(a.codes, b.codes)  # type: ignore[arg-type]
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_behind_http_is_the_same_and_fetched_once(
    codes: Path, server: Server, workers: int, tmp_path: Path
) -> None:
    batches = take(server.url, 9, cache=cache(tmp_path), num_workers=workers)
    assert same(batches, take(codes, 9))
    files = [f"train/{number:06d}{end}" for number in range(3) for end in (".tar", ".index.json")]
    assert {name: server.requests[name] for name in files} == dict.fromkeys(files, 1)
    again = take(server.url, 9, cache=cache(tmp_path))
    assert same(again, batches)
    assert {name: server.requests[name] for name in files} == dict.fromkeys(files, 1)


@pytest.mark.filterwarnings("ignore:.*test is taken as absent")
def test_any_file_system_of_fsspec_and_any_command(codes: Path, tmp_path: Path) -> None:
    fsspec.filesystem("memory").put(str(codes), "/there", recursive=True)
    local = take(codes, 5, min_segment_ratio=1.0, num_frames=12)
    for number, path in enumerate((f"file://{codes}", "memory://there", f"pipe:cat {codes}/{{name}}")):
        kept = cache(tmp_path / str(number))
        assert same(take(path, 5, cache=kept, min_segment_ratio=1.0, num_frames=12), local)
        assert len(list(kept.folder.glob("[0-9a-f]*"))) >= 3


def test_splits_are_tried_by_name(codes: Path, server: Server, tmp_path: Path) -> None:
    assert list(open_splits(server.url, cache(tmp_path))) == ["train", "valid"]
    assert list(open_splits(f"{server.url}/valid/", cache(tmp_path))) == ["valid"]
    with pytest.warns(UserWarning, match=r"test is taken as absent: .*No such file") as said:
        assert list(open_splits(f"pipe:cat {codes}/{{name}}", cache(tmp_path))) == ["train", "valid"]
    assert len(said) == 1
    with pytest.raises(FileNotFoundError, match=r"no dataset in http://.*/nothing \(it should hold <split>"):
        open_splits(f"{server.url}/nothing", cache(tmp_path))
    server.faults["valid/dataset.json"] = ("503", 99)
    with pytest.raises(OSError, match=r"valid/dataset.json: .*503.*\(3 tries\)"):  # absent it is not
        open_splits(server.url, cache(tmp_path))
    assert open_splits(codes)["train"] == LocalFolder(codes / "train")


@pytest.mark.parametrize("fault", ["503", "cut", "stall"])
def test_what_goes_wrong_twice_is_tried_again(
    codes: Path, server: Server, fault: str, tmp_path: Path
) -> None:
    server.faults["train/000001.tar"] = (fault, 2)
    assert same(take(server.url, 4, cache=cache(tmp_path, timeout=1.0)), take(codes, 4))
    assert server.requests["train/000001.tar"] == 3
    assert not list((tmp_path / "cache").glob("*.part"))


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("fault", "reason", "requests"),
    [("stall", "stalled: 10 bytes in", 3), ("cut", "3 tries", 3), ("404", "there is no train/000001.tar", 1)],
)
def test_a_lost_shard_is_skipped_and_named(
    server: Server, fault: str, reason: str, requests: int, workers: int, tmp_path: Path
) -> None:
    server.faults["train/000001.tar"] = (fault, 99)
    start = time.monotonic()
    settings: dict[str, Any] = {
        "cache": cache(tmp_path, timeout=1.0),
        "log_folder": tmp_path,
        "num_workers": workers,
        "max_bad_ratio": 0.5,
    }
    batches = take(server.url, 8, **settings)
    assert time.monotonic() - start < 10
    assert {key for batch in batches for key in batch.keys}.isdisjoint({f"c{i:03d}" for i in range(7, 11)})
    lines = [json.loads(line) for line in (tmp_path / "quarantine-rank0.jsonl").read_text().splitlines()]
    assert {line["key"] for line in lines} == {f"c{i:03d}" for i in range(7, 11)}
    assert all(line["shard"] == "000001.tar" and reason in line["reason"] for line in lines)
    # Four samples of two epochs wait for it once, in whatever process.
    assert server.requests["train/000001.tar"] == requests


@pytest.mark.filterwarnings("ignore:.*test is taken as absent")
def test_what_comes_is_checked(codes: Path, server: Server, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(codes, bad)
    tar = bad / "train/000000.tar"
    raw = bytearray(tar.read_bytes())
    index = DatasetIndex(codes / "train")
    shard, place = index.info.shards[0], index.shard(0)
    for change, reason in (
        (bytes(raw[:-1]), rf"is cut: {len(raw) - 1} of {len(raw)} bytes came"),
        (bytes(raw) + b"x", rf"has more than {len(raw)} bytes|is cut: {len(raw) + 1} of"),
        (bytes(raw[:-1]) + b"x", r"what came has sha256 .*, dataset.json says"),
    ):
        tar.write_bytes(change)
        for number, path in enumerate((f"file://{bad}", f"pipe:cat {bad}/{{name}}")):
            folder = open_splits(path, cache(tmp_path / f"{len(change)}{change[-1]}{number}", tries=1))[
                "train"
            ]
            with pytest.raises(ValueError, match=reason):
                ShardReader(folder).read(shard, place, 0, "json")
    kept = cache(tmp_path)
    with pytest.raises(ValueError, match="is no sha256"):
        kept.fetch(transport(server.url, {}), "x.tar", sha256="../../etc/passwd")
    with pytest.raises(ValueError, match=r"x.tar has 300 bytes, the cache .* may hold 200"):
        cache(tmp_path, max_bytes=200).fetch(
            transport(server.url, {}), "x.tar", sha256="a" * 64, num_bytes=300
        )


def write(name: str, target: Path, watch: Any) -> None:
    """A transport of files of 100 bytes that are their names."""
    target.write_bytes(contents(name))


def contents(name: str) -> bytes:
    return name.ljust(100).encode()


def fetch(kept: ShardCache, name: str) -> Path:
    return kept.fetch(write, name, sha256=hashlib.sha256(contents(name)).hexdigest(), num_bytes=100)


def test_the_cache_is_bounded_and_forgets_what_was_opened_longest_ago(tmp_path: Path) -> None:
    kept = cache(tmp_path, max_bytes=350)
    paths = {}
    for name in ("a", "b", "c"):
        paths[name] = fetch(kept, name)
        time.sleep(0.01)  # the clock of a file system ticks slowly
    open_file = paths["b"].open("rb")
    assert fetch(kept, "a") == paths["a"]
    time.sleep(0.01)
    stray = tmp_path / "cache/old.part"
    stray.write_bytes(b"of a process that was killed")
    os.utime(stray, (0, 0))
    paths["d"] = fetch(kept, "d")
    assert [name for name in "abcd" if paths[name].exists()] == ["a", "c", "d"]
    assert not stray.exists()
    assert open_file.read() == contents("b")  # who has it open reads on
    open_file.close()
    assert fetch(kept, "b").read_bytes() == contents("b")


def test_a_reader_survives_that_its_shard_is_pushed_out(codes: Path, tmp_path: Path) -> None:
    local = DatasetIndex(codes / "train")
    largest = max(shard.num_bytes for shard in local.info.shards)
    kept = cache(tmp_path, max_bytes=largest + 10)  # never two shards, or a shard and an index
    index = DatasetIndex(open_splits(f"file://{codes}", kept)["train"])
    reader = ShardReader(index.folder)
    for _ in range(2):
        for number, shard in enumerate(index.info.shards):
            assert reader.attributes(shard, index.shard(number), 0) == ShardReader(local.folder).attributes(
                shard, local.shard(number), 0
            )
            files = list((tmp_path / "cache").glob("[0-9a-f]*"))
            assert sum(file.stat().st_size for file in files) <= kept.max_bytes


def _use(folder: Path, log: Path, seed: int) -> None:
    """One of many processes on a small cache."""

    def bring(name: str, target: Path, watch: Any) -> None:
        with log.open("a") as file:
            file.write(f"{name}\n")
        time.sleep(0.02)
        write(name, target, watch)

    kept = ShardCache(folder, max_bytes=650)
    for i in range(30):
        name = f"{(i * 7 + seed * i) % 9}"
        for _ in range(50):
            path = kept.fetch(bring, name, sha256=hashlib.sha256(contents(name)).hexdigest(), num_bytes=100)
            try:
                assert path.read_bytes() == contents(name)
                break
            except FileNotFoundError:
                continue
        else:
            raise AssertionError("never there")


def test_many_processes_share_a_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_use, args=(tmp_path / "cache", tmp_path / "log", seed)) for seed in range(6)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    files = list((tmp_path / "cache").glob("[0-9a-f]*"))
    assert len(files) == 6
    assert all(file.read_bytes() == contents(file.read_bytes().decode().strip()) for file in files)
    # 180 reads of nine names, of which six fit.
    assert len((tmp_path / "log").read_text().split()) < 150


def test_commands_that_fail_or_hang(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"should hold \{name\}"):
        open_splits("pipe:cat /data", cache(tmp_path))
    failing = PipeTransport("echo no such thing >&2; exit 7 # {name}")
    with pytest.raises(OSError, match=r"a.tar: .* ended with 7: no such thing \(3 tries\)"):
        cache(tmp_path).read(failing, "a.tar", max_bytes=10)
    pids = tmp_path / "pids"
    hanging = PipeTransport(f"echo $$ >> {pids}; sleep 60 | cat # {{name}}")
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"a.tar: stalled: 0 bytes in .*\(2 tries\)"):
        cache(tmp_path, timeout=0.3, tries=2).read(hanging, "a.tar", max_bytes=10)
    assert time.monotonic() - start < 5
    time.sleep(0.2)
    for pid in pids.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    # A name is one word to the shell, whatever is in it.
    odd = PipeTransport("printf %s {name}")
    assert cache(tmp_path).read(odd, "$(id); x", max_bytes=99) == b"$(id); x"
    with pytest.raises(ValueError, match="has more than 99 bytes"):
        cache(tmp_path, tries=1).read(PipeTransport("yes {name}"), "y", max_bytes=99)


def test_a_trickle_is_given_up_too(tmp_path: Path) -> None:
    drops = PipeTransport("while true; do echo {name}; sleep 0.05; done")
    with pytest.raises(TimeoutError, match="stalled"):
        cache(tmp_path, timeout=0.3, deadline=0.5, tries=1).read(drops, "a", max_bytes=1000)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    for protocol, package in (("s3", "s3fs"), ("gs", "gcsfs")):
        if importlib.util.find_spec(package) is None:
            with pytest.raises(ImportError, match=rf"{package}.*pip install 'lightning-audio\[remote\]'"):
                open_splits(f"{protocol}://bucket/data", cache(tmp_path))


def test_a_local_dataset_makes_no_cache(codes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    take(codes, 2)
    assert not list(tmp_path.iterdir())


def test_short_clips_are_found_without_the_indexes(codes: Path, server: Server, tmp_path: Path) -> None:
    """durations.bin says how long each clip is; a dataset without it, or with one of other shards, is read through."""
    used = [DatasetIndex(codes / "train", min_duration=0.13)]
    used.append(DatasetIndex(open_splits(server.url, cache(tmp_path))["train"], min_duration=0.13))
    assert not any(name.endswith(".index.json") for name in server.requests)
    old = tmp_path / "old"
    shutil.copytree(codes, old)
    (old / "train/durations.bin").unlink()
    used.append(DatasetIndex(old / "train", min_duration=0.13))
    shutil.copy(codes / "valid/durations.bin", old / "train")
    used.append(DatasetIndex(old / "train", min_duration=0.13))
    for index in used:
        # Clip i is 100 + 10 (i % 7) ms long.
        places = [(s, index.sample(s, nth)) for s, count in enumerate(index.counts) for nth in range(count)]
        long = [i for i in range(20) if i % 7 >= 3]
        assert [int(index.shard(s).keys[sample][1:]) for s, sample in places] == long
        assert index.num_short == 20 - len(long)
