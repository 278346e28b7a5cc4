from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import webdataset as wds

from lightning_audio import audio
from sharding.sources import Clip, find_clips
from sharding.sources.webdataset import webdataset
from sharding.writing.write import write_shards

Plant = Callable[[dict[str, str]], Path]


def write_tar(path: Path, members: dict[str, bytes], **kind: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for field, value in kind.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(data))
    return path


def read(clip: Clip) -> bytes:
    with clip.open() as file:
        return file.read()


def test_samples_are_those_that_the_webdataset_package_reads(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    with wds.TarWriter(str(tmp_path / "a.tar")) as writer:
        for i in range(3):
            wav = 0.1 * torch.randn(1, 400, generator=generator)
            writer.write(
                {
                    "__key__": f"folder/clip {i}",
                    "flac": audio.encode(wav, 16000),
                    "melody.wav": audio.encode(wav.flip(-1), 16000, suffix=".wav"),
                    "json": json.dumps({"number": i}).encode(),
                    "cls": b"7",
                }
            )
    clips = webdataset(tmp_path / "a.tar")
    samples = list(wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert len(clips) == len(samples) == 3
    for clip, sample in zip(clips, samples, strict=True):
        assert clip.name == f"a/{sample['__key__']}.flac"
        assert read(clip) == sample["flac"]
        assert clip.attributes == json.loads(sample["json"])
        assert {name: read(condition) for name, condition in clip.conditions.items()} == {
            "melody": sample["melody.wav"]
        }
        with clip.open() as file:
            assert audio.info(file).num_samples == 400


def test_captions_splits_and_groups(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "train/000.tar",
        {
            "./x/a.FLAC": b"audio",
            "./x/a.json": b'{"text": ["rain", "drops"], "caption": "", "artist": "Ann", "source": "s.wav"}',
            "b.mp3": b"more",
            "b.txt": b" a caption\n",
            "b.json": b'{"source": "long.wav"}',
        },
    )
    write_tar(tmp_path / "val/000.tar", {"a.ogg": b"", "a.txt": b"one", "a.json": b'{"description": "two"}'})
    clips = find_clips(tmp_path)
    tar = tmp_path / "train/000.tar"
    assert clips == [
        Clip(
            "train/000/x/a.flac",
            tar,
            {"description": ["rain", "drops"], "caption": "", "artist": "Ann", "source": "s.wav"},
            "train",
            group="Ann",
            span=(512, 5),
        ),
        Clip(
            "train/000/b.mp3",
            tar,
            {"description": "a caption", "source": "long.wav"},
            "train",
            group="long.wav",
            span=(2560, 4),
        ),
        Clip("val/000/a.ogg", tmp_path / "val/000.tar", {"description": "two"}, "valid", span=(512, 0)),
    ]
    assert (read(clips[0]), clips[0].num_bytes, clips[0].suffix) == (b"audio", 5, ".flac")


def test_the_name_of_a_tar_may_tell_its_split_if_all_do(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000001.tar", {"a.wav": b""})
    write_tar(tmp_path / "test_2.tar", {"a.wav": b""})
    assert {clip.name: clip.split for clip in webdataset(tmp_path)} == {
        "test_2/a.wav": "test",
        "train-000001/a.wav": "train",
    }
    write_tar(tmp_path / "other.tar", {"a.wav": b""})
    assert {clip.split for clip in webdataset(tmp_path)} == {None}


def test_our_own_shards_are_a_source(tmp_path: Path) -> None:
    for i in range(6):
        audio.write(tmp_path / f"in/{i}.wav", torch.rand(1, 400) - 0.5, 16000)
        (tmp_path / f"in/{i}.json").write_text(json.dumps({"description": f"noise {i}"}))
    write_shards(find_clips(tmp_path / "in"), tmp_path / "out", samples_per_shard=2)
    clips = find_clips(tmp_path / "out")
    assert {clip.group: read(clip) for clip in clips} == {
        f"{i}.wav": (tmp_path / f"in/{i}.wav").read_bytes() for i in range(6)
    }
    assert {clip.attributes["description"] for clip in clips} == {f"noise {i}" for i in range(6)}
    assert {clip.split for clip in clips} == {"train", "valid", "test"}


def test_audio_beside_a_tar_is_a_folder_of_audio(plant: Plant) -> None:
    root = plant({"a.wav": "", "more.tar": ""})
    assert [clip.name for clip in find_clips(root)] == ["a.wav"]


def test_samples_without_audio_are_left_out_and_counted(tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "a.tar", {"a.wav": b"", "a.2 x.wav": b"", "b.txt": b"silent", "c.melody.wav": b""}
    )
    with pytest.warns(UserWarning, match="there is no audio of b; 2 of the 3"):
        (clip,) = webdataset(tar)
    assert (clip.name, clip.conditions) == ("a/a.wav", {})  # "2 x" is no name of a condition
    write_tar(tar, {"b.txt": b""})
    with pytest.raises(ValueError, match=r"no sample in .* has audio"), pytest.warns(match="1 of the 1"):
        webdataset(tar)


@pytest.mark.parametrize(
    ("members", "kind", "says"),
    [
        ({"../a.wav": b""}, {}, r"'\.\./a\.wav' points outside"),
        ({"/etc/a.wav": b""}, {}, r"'/etc/a\.wav' points outside"),
        ({"a.wav": b""}, {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "'a.wav' is no plain file"),
        ({"a.wav": b""}, {"type": tarfile.LNKTYPE, "linkname": "b"}, "'a.wav' is no plain file"),
        ({"a.wav": b""}, {"type": tarfile.FIFOTYPE}, "'a.wav' is no plain file"),
        ({"readme": b""}, {}, "'readme' is no key.part"),
        ({"a.wav": b"", "./a.wav": b""}, {}, "a.wav is there twice"),
        ({"a.wav": b"", "a.flac": b""}, {}, "a has audio twice, as wav and flac"),
        ({"a.wav": b"", "a.json": b"[1]"}, {}, "a: attributes are a list, not an object"),
        ({"a.wav": b"", "a.json": b"{"}, {}, "a: attributes are no JSON"),
        ({"a.wav": b"", "a.json": b"[" * 100_000}, {}, "a: attributes are nested too deeply"),
        ({"a.wav": b"", "a.txt": b" " * (1 << 22) + b"!"}, {}, "a: its text has 4194305 bytes"),
    ],
)
def test_a_hostile_member_is_refused_by_name(
    members: dict[str, bytes], kind: dict[str, bytes], says: str, tmp_path: Path
) -> None:
    tar = write_tar(tmp_path / "a.tar", members, **kind)
    with pytest.raises(ValueError, match=says):
        webdataset(tar)


def test_a_member_larger_than_its_tar_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.wav": b"audio"})
    header = tarfile.TarInfo("b.wav")
    header.size = 1 << 30
    tar.write_bytes(tar.read_bytes()[:1024] + header.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(ValueError, match=r"'b\.wav' is cut: 1073741824 bytes, 0 are there"):
        webdataset(tar)


def test_what_is_no_tar_is_one_clear_line(plant: Plant) -> None:
    root = plant({"a.tar": "not a tar at all" * 100, "notes.txt": ""})
    with pytest.raises(ValueError, match=r"a\.tar is no tar that can be read"):
        find_clips(root)
    (root / "a.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"there are no \.tar files in"):
        find_clips(root, layout="webdataset")
