from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_audio import audio
from sharding.sources.clip import Clip
from sharding.writing.duplicates import duplicates
from sharding.writing.plan import make_keys, make_plan
from sharding.writing.prepare import Settings
from sharding.writing.write import write_shards


def clips_in(folder: Path, contents: dict[str, bytes], split: str | None = "train") -> list[Clip]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return [Clip(name, folder / name, {"n": i}, split) for i, name in enumerate(contents)]


def found(clips: list[Clip]) -> dict[str, str]:
    places = duplicates(clips, [clip.num_bytes for clip in clips])
    return {clips[place].name: clips[kept].name for place, kept in places.items()}


def test_the_same_bytes_are_found_and_nothing_else(tmp_path: Path) -> None:
    body = bytes(range(256)) * 100
    clips = clips_in(
        tmp_path,
        {
            "c.wav": body,
            "a.wav": body,
            "another end.wav": body[:-1] + b"x",
            "another middle.wav": body[:12800] + b"x" + body[12801:],
            "longer.wav": body + b"x",
            "b.wav": body,
        },
    )
    assert found(clips) == {"b.wav": "a.wav", "c.wav": "a.wav"}
    assert found(clips[::-1]) == {"b.wav": "a.wav", "c.wav": "a.wav"}
    # Of the test set is kept what training has too.
    clips[0] = replace(clips[0], split="test")
    assert found(clips) == {"a.wav": "c.wav", "b.wav": "c.wav"}
    # Two stretches of a recording are not the same, and neither is one audio with two melodies.
    parts = [replace(clips[1], name=f"{start}", start=start, duration=1.0) for start in (0.0, 1.0)]
    assert found(parts) == {}
    sung = [replace(clips[1], name=n, conditions={"melody": clips[i]}) for n, i in (("x", 1), ("y", 4))]
    assert found(sung) == {}
    assert found([sung[0], replace(sung[0], name="z")]) == {"z": "x"}


def test_duplicates_are_left_out_unless_they_are_wanted(tmp_path: Path) -> None:
    clips = clips_in(tmp_path, {"a.wav": b"same", "b.wav": b"same", "c.wav": b"else"})
    plan = make_plan(clips, Settings())
    assert {clip.name for shard in plan.shards for _, clip in shard.clips} == {"a.wav", "c.wav"}
    [skip] = plan.left_out["train"]
    assert (skip.name, skip.reason) == ("b.wav", "the same audio as a.wav in train")
    assert make_plan(clips, Settings(), keep_duplicates=True).num_clips == 3


def test_a_file_that_is_gone_is_left_out(tmp_path: Path) -> None:
    clips = clips_in(tmp_path, {"a.wav": b"1", "b.wav": b"2"})
    clips[0].path.unlink()
    plan = make_plan(clips, Settings())
    assert plan.num_clips == 1
    assert [skip.reason for skip in plan.left_out["train"]] == ["cannot be opened: No such file or directory"]


def test_shards_are_closed_at_samples_and_bytes(tmp_path: Path) -> None:
    clips = clips_in(tmp_path, {f"{i}.wav": bytes([i]) * 100 for i in range(10)})

    def counts(**limits: int) -> list[int]:
        return [len(shard.clips) for shard in make_plan(clips, Settings(), **limits).shards]  # type: ignore[arg-type]

    assert counts(samples_per_shard=4) == [4, 4, 2]
    assert counts(bytes_per_shard=299) == [2] * 5
    assert counts(bytes_per_shard=1) == [1] * 10
    with pytest.raises(ValueError, match="0 samples"):
        counts(samples_per_shard=0)


def test_the_plan_is_of_clips_and_settings_alone(tmp_path: Path) -> None:
    contents = {f"{i}.wav": bytes([i]) * 100 for i in range(10)}
    clips = clips_in(tmp_path / "here", contents)
    plan = make_plan(clips, Settings(), samples_per_shard=3)
    assert make_plan(clips[::-1], Settings(), samples_per_shard=3).digest == plan.digest
    elsewhere = clips_in(tmp_path / "there", contents)
    for clip, copy in zip(clips, elsewhere, strict=True):
        state = clip.path.stat()
        os.utime(copy.path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert make_plan(elsewhere, Settings(), samples_per_shard=3).digest == plan.digest

    others = [
        make_plan(clips, Settings(), samples_per_shard=4),
        make_plan(clips, Settings(channels=1), samples_per_shard=3),
        make_plan(clips[1:], Settings(), samples_per_shard=3),
        make_plan([replace(clips[0], attributes={"n": 7}), *clips[1:]], Settings(), samples_per_shard=3),
        make_plan([replace(clips[0], start=1.0), *clips[1:]], Settings(), samples_per_shard=3),
        make_plan([replace(clips[0], split="test"), *clips[1:]], Settings(), samples_per_shard=3),
    ]
    os.utime(clips[0].path, ns=(0, 0))  # written again since
    others.append(make_plan(clips, Settings(), samples_per_shard=3))
    assert len({other.digest for other in others} | {plan.digest}) == len(others) + 1


def test_names_of_conditions_become_names_of_parts(tmp_path: Path) -> None:
    [clip] = clips_in(tmp_path, {"a.wav": b"1"})
    for name in ("../melody", "a.b", "", "x" * 17):
        with pytest.raises(ValueError, match="1 to 16 characters"):
            make_plan([replace(clip, conditions={name: clip})], Settings())


def test_keys_are_plain_and_all_different() -> None:
    names = ["a b/c.wav", "a_b/c.mp3", "ü.wav", "é.wav", "x" * 300 + ".wav", "../up.tar.wav", "a.b.c.wav"]
    keys = make_keys(names)
    assert len(set(keys)) == len(names)
    assert keys == make_keys(names)
    assert all(
        len(key) <= 72 and key.replace("_", "").replace("-", "").isalnum() and key.isascii() for key in keys
    )


def test_the_longest_names_fit_into_a_tar(tmp_path: Path) -> None:
    name = "x" * 200 + ".flac"
    audio.write(tmp_path / "a.flac", 0.1 * torch.ones(1, 8000), 8000)
    sound = Clip("a.flac", tmp_path / "a.flac")
    clip = Clip(name, tmp_path / "a.flac", {}, "train", conditions={"a" * 16: sound})
    report = write_shards([clip], tmp_path / "out", chunk_duration=0.4)
    assert report.num_samples == 3
    index = json.loads((tmp_path / "out/train/000000.index.json").read_text())
    assert {len(key) for key in index["keys"]} == {78}
