"""Weights: where they are looked for, that only the published file passes, and how they are fetched."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from eval.weights import KNOWN, HubFolder, WeightsFile, download
from experiments.weights import main

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Server(HTTPServer):
    """Serves CONTENT; keeps the ranges that were asked for, and ends an answer early where told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ranges: list[str | None] = []
        self.cut_at: int | None = None
        self.knows_ranges = True
        self.url = f"http://127.0.0.1:{self.server_port}/tiny.pth"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        begin = int(asked[6:-1]) if asked and self.server.knows_ranges else 0
        if begin >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        self.wfile.write(CONTENT[begin : self.server.cut_at])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither the user's weights nor caches are seen."""
    monkeypatch.setenv("LIGHTNING_AUDIO_WEIGHTS", str(tmp_path / "own"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


def _weights(url: str = "http://example.org/tiny.pth", **options: object) -> WeightsFile:
    facts = {"size": len(CONTENT), "sha256": SHA256, "aliases": ("tiny%3D.pth",), **options}
    return WeightsFile("tiny", "tiny.pth", url, "MIT", **facts)  # type: ignore[arg-type]


def _put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_found_in_the_own_folder_before_the_caches_of_other_programs(folders: Path) -> None:
    weights = _weights()
    cached = _put(folders / "hub" / "tiny%3D.pth")
    assert weights.find().path == cached
    checkpoint = _put(folders / "hub" / "checkpoints" / "tiny.pth")
    assert weights.find().path == checkpoint
    own = _put(folders / "own" / "tiny.pth")
    found = weights.find()
    assert (found.path, found.sha256, found.verified) == (own, SHA256, True)
    elsewhere = _put(folders / "elsewhere" / "tiny.pth")
    assert weights.find(elsewhere.parent).path == weights.find(elsewhere).path == elsewhere


def test_absent_weights_say_all_that_is_needed(folders: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        _weights().find()
    for told in (
        "tiny.pth",
        "1,048,576 bytes",
        SHA256,
        "MIT",
        "http://example.org/tiny.pth",
        "weights fetch tiny",
    ):
        assert told in str(error.value)
    assert str(folders / "own" / "tiny.pth") in str(error.value)
    with pytest.raises(FileNotFoundError, match="size unknown, hash unknown"):
        _weights(size=None, sha256=None).find()


def test_a_path_that_is_not_there_is_never_replaced_by_a_cache(folders: Path) -> None:
    _put(folders / "own" / "tiny.pth")
    with pytest.raises(FileNotFoundError, match=re.escape(str(folders / "nowhere"))):
        _weights().find(folders / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [(CONTENT[:-1], "1,048,575 bytes, the published tiny.pth 1,048,576"), (CONTENT[::-1], "SHA-256")],
)
def test_another_file_is_refused_unless_it_is_wanted(folders: Path, content: bytes, message: str) -> None:
    path = _put(folders / "own" / "tiny.pth", content)
    with pytest.raises(ValueError, match=message):
        _weights().find()
    with pytest.raises(ValueError, match=message):
        _weights().find(any_weights=True)  # what lies in a cache by chance is not what anybody wanted
    found = _weights().find(path, any_weights=True)
    assert (found.verified, found.sha256) == (False, hashlib.sha256(content).hexdigest())


def test_fetched_whole_and_checked(server: _Server, folders: Path) -> None:
    told: list[tuple[int, int]] = []
    path = _weights(server.url).fetch(folders / "new", lambda done, total: told.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [file.name for file in path.parent.iterdir()] == ["tiny.pth"]
    assert _weights(server.url).fetch(folders / "new") == path
    assert len(server.ranges) == 1  # the second time it was there


def test_a_cut_connection_is_gone_on_from(server: _Server, folders: Path) -> None:
    server.cut_at = 700_000
    with pytest.raises(OSError, match="run it again"):
        _weights(server.url).fetch(folders)
    assert not (folders / "tiny.pth").exists()
    server.cut_at = None
    assert _weights(server.url).fetch(folders).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=700000-"]


def test_a_server_without_ranges_begins_anew(server: _Server, folders: Path) -> None:
    _put(folders / "tiny.pth.part", b"of an earlier attempt")
    server.knows_ranges = False
    download(server.url, folders / "tiny.pth")
    assert (folders / "tiny.pth").read_bytes() == CONTENT


def test_a_download_that_was_all_here_is_only_checked(server: _Server, folders: Path) -> None:
    _put(folders / "tiny.pth.part")
    assert _weights(server.url).fetch(folders).read_bytes() == CONTENT


def test_what_is_not_the_published_file_is_thrown_away(server: _Server, folders: Path) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        _weights(server.url, sha256="0" * 64).fetch(folders)
    assert not list(folders.glob("tiny*"))


def test_a_folder_of_the_hub(folders: Path) -> None:
    weights = HubFolder("tokens", ("owner/name", "name"), ("vocab.json", "merges.txt"), "MIT")
    with pytest.raises(FileNotFoundError, match=r"vocab\.json, merges\.txt .*weights fetch tokens"):
        weights.find()
    _put(folders / "own" / "tokens" / "vocab.json", b"{}")
    assert weights.find() == folders / "own" / "tokens"


def test_the_verb_lists_checks_and_fetches(
    server: _Server, folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(KNOWN, "tiny", _weights(server.url))
    main([])
    listed = capsys.readouterr().out
    assert all(f"{name}: " in listed for name in KNOWN)
    assert "tiny: absent" in listed
    main(["fetch", "tiny"])
    assert str(folders / "own" / "tiny.pth") in capsys.readouterr().out
    main(["list", "tiny"])
    assert "tiny: present" in capsys.readouterr().out
    _put(folders / "own" / "tiny.pth", CONTENT[::-1])
    main(["list", "tiny", "--check"])
    assert "tiny: WRONG" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no weights 'nothing'; known are vggish"):
        main(["fetch", "nothing"])
    with pytest.raises(ValueError, match="name what to fetch"):
        main(["fetch"])


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_what_is_known_is_well_formed(name: str) -> None:
    weights = KNOWN[name]
    assert weights.name == name
    if isinstance(weights, WeightsFile):
        assert weights.url.startswith("https://")
        assert weights.sha256 is None or re.fullmatch("[0-9a-f]{64}", weights.sha256)
