"""Clotho, ESC-50 and FSD50K, whose audio is Freesound's and published in full."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_audio import audio
from sharding.schema import DatasetInfo
from sharding.sources import Clip, find_clips
from sharding.sources.esc50 import esc50
from sharding.writing.write import write_shards

Plant = Callable[[dict[str, str]], Path]

CLOTHO = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
CLOTHO_METADATA = "file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license\n"
ESC50 = "filename,fold,target,category,esc10,src_file,take\n"


def test_clotho(plant: Plant) -> None:
    root = plant(
        {
            "clotho_captions_development.csv": CLOTHO + 'Birds.wav,"Birds, many.",b,c,d,e\n',
            "clotho_metadata_development.csv": CLOTHO_METADATA
            + 'Birds.wav,outside;Birds,327673,https://x,"[11162624, 11932169]",Juan,http://by-nc/3.0/\n',
            "clotho_captions_evaluation.csv": CLOTHO + "Birds.wav,1,2,3,4,5\nRain.wav,1,2,3,4,5\n",
            "clotho_metadata_evaluation.csv": CLOTHO_METADATA + "Rain.wav,,Not found,,,,\n",
            "development/Birds.wav": "",
            "clotho_audio_evaluation/Birds.wav": "",  # of the same name: the folder tells them apart
            "clotho_audio_evaluation/Rain.wav": "",
        }
    )
    table = root / "clotho_metadata_development.csv"
    table.write_bytes(table.read_bytes().replace(b"Juan", "J\xfcan".encode("latin-1")))
    first, *others = find_clips(root, layout="clotho")
    assert first == Clip(
        "development/Birds.wav",
        root / "development/Birds.wav",
        {
            "description": ["Birds, many.", "b", "c", "d", "e"],
            "keywords": ["outside", "Birds"],
            "artist": "Jüan",
            "license": "http://by-nc/3.0/",
            "sound_id": "327673",
        },
        "train",
        group="327673",
    )
    assert [(clip.name, clip.split, clip.group) for clip in others] == [
        ("clotho_audio_evaluation/Birds.wav", "test", None),
        ("clotho_audio_evaluation/Rain.wav", "test", None),
    ]


def test_esc50(plant: Plant) -> None:
    names = ["1-100032-A-0.wav", "4-1234-A-11.wav", "5-99-B-0.wav"]
    root = plant(
        {
            "meta/esc50.csv": ESC50
            + "1-100032-A-0.wav,1,0,dog,True,100032,A\n4-1234-A-11.wav,4,11,sea_waves,True,1234,A\n"
            + "5-99-B-0.wav,5,20,crying_baby,False,99,B\n",
            **{f"audio/{name}": "" for name in names},
        }
    )
    clips = find_clips(root, layout="esc50")
    assert clips == [
        Clip(
            f"audio/{name}",
            root / "audio" / name,
            {"description": text, "labels": [label], "fold": fold},
            split,
            group,
        )
        for name, text, label, fold, split, group in (
            (names[0], "dog", "dog", 1, "train", "100032"),
            (names[1], "sea waves", "sea_waves", 4, "valid", "1234"),
            (names[2], "crying baby", "crying_baby", 5, "test", "99"),
        )
    ]
    assert [clip.split for clip in esc50(root, test_fold=1, valid_fold=5)] == ["test", "train", "valid"]
    assert [clip.name for clip in esc50(root, only_esc10=True)] == [f"audio/{name}" for name in names[:2]]
    with pytest.raises(ValueError, match=r"folds 1 to 5.*'test': 6, 'valid': 4"):
        esc50(root, test_fold=6)


def test_fsd50k(plant: Plant) -> None:
    info = {
        "title": "a.wav",
        "description": "mine",
        "tags": ["guitar"],
        "license": "http://cc0",
        "uploader": "bob",
    }
    root = plant(
        {
            "FSD50K.ground_truth/dev.csv": "fname,labels,mids,split\n"
            '64760,"Electric_guitar,Guitar,Music","/m/02sgy,/m/0342h,/m/04rlf",train\n16399,Bark,/m/05tny_,val\n',
            "FSD50K.ground_truth/eval.csv": "fname,labels,mids\n37199,Bark,/m/05tny_\n",
            "FSD50K.ground_truth/vocabulary.csv": "0,Bark,/m/05tny_\n",
            "FSD50K.metadata/collection/dev.csv": "fname,labels,mids\n64760,Other,/m/0\n",
            "FSD50K.metadata/dev_clips_info_FSD50K.json": json.dumps({"64760": info}),
            "FSD50K.dev_audio/64760.wav": "",
            "FSD50K.dev_audio/16399.wav": "",
            "FSD50K.eval_audio/37199.wav": "",
        }
    )
    first, *others = find_clips(root, layout="fsd50k")
    assert first == Clip(
        "FSD50K.dev_audio/64760.wav",
        root / "FSD50K.dev_audio/64760.wav",
        {
            "description": "electric guitar, guitar, music",
            "labels": ["Electric_guitar", "Guitar", "Music"],
            "title": "a.wav",
            "keywords": ["guitar"],
            "license": "http://cc0",
            "artist": "bob",
        },
        "train",
        group="bob",
    )
    assert [(clip.name, clip.split, clip.group, clip.attributes["description"]) for clip in others] == [
        ("FSD50K.dev_audio/16399.wav", "valid", "16399", "bark"),
        ("FSD50K.eval_audio/37199.wav", "test", "37199", "bark"),
    ]


@pytest.mark.parametrize(
    ("layout", "files", "error", "says"),
    [
        ("clotho", {"a.wav": ""}, FileNotFoundError, "clotho_captions_development.csv nor"),
        (
            "clotho",
            {"a.wav": "", "clotho_captions_validation.csv": "file_name,caption\n"},
            ValueError,
            "no column 'caption_1' nor",
        ),
        (
            "clotho",
            {"a.wav": "", "clotho_captions_validation.csv": CLOTHO + "b.wav,1,2,3,4,5\nc.wav,1,2,3,4,5\n"},
            FileNotFoundError,
            r"line 2: there is no b.wav \(nor 1 others",
        ),
        ("esc50", {"a.wav": ""}, FileNotFoundError, "there is no esc50.csv"),
        (
            "esc50",
            {"a.wav": "", "esc50.csv": ESC50 + "b.wav,1,0,dog,True,1,A\n"},
            FileNotFoundError,
            "line 2: there is no b.wav",
        ),
        ("esc50", {"a.wav": "", "esc50.csv": ESC50}, ValueError, "names no files"),
        (
            "esc50",
            {"a.wav": "", "esc50.csv": "filename,fold,target,category\n"},
            ValueError,
            "no column 'esc10' nor 'src_file'",
        ),
        ("fsd50k", {"a.wav": ""}, FileNotFoundError, "dev.csv nor eval.csv"),
        (
            "fsd50k",
            {"1.wav": "", "FSD50K.ground_truth/dev.csv": "fname,labels,mids,split\n1,a,m,both\n"},
            ValueError,
            "line 2: the split 'both'",
        ),
        (
            "fsd50k",
            {"1.wav": "", "FSD50K.ground_truth/dev.csv": "fname,labels\n"},
            ValueError,
            "no column 'split'",
        ),
        (
            "fsd50k",
            {"1.wav": "", "FSD50K.ground_truth/eval.csv": "fname,labels\n2,a\n"},
            FileNotFoundError,
            "no 2.wav",
        ),
        (
            "fsd50k",
            {
                "1.wav": "",
                "FSD50K.ground_truth/eval.csv": "fname,labels\n1,a\n",
                "eval_clips_info_FSD50K.json": "[]",
            },
            ValueError,
            "not FSD50K's metadata",
        ),
    ],
)
def test_bad_input_is_one_clear_line(
    layout: str, files: dict[str, str], error: type[Exception], says: str, plant: Plant
) -> None:
    with pytest.raises(error, match=says) as caught:
        find_clips(plant(files), layout=layout)
    assert "\n" not in str(caught.value)


def test_esc50_becomes_shards_by_its_folds(plant: Plant, tmp_path: Path) -> None:
    rows = "".join(
        f"{fold}-{fold}{take}-A-0.wav,{fold},0,dog,True,{fold}{take},A\n"
        for fold in range(1, 6)
        for take in (7, 8)
    )
    root = plant({"meta/esc50.csv": ESC50 + rows})
    generator = torch.Generator().manual_seed(0)
    for line in rows.splitlines():
        wav = 0.1 * torch.randn(1, 800, generator=generator)
        audio.write(root / "audio" / line.split(",")[0], wav, 16000)
    write_shards(find_clips(root, layout="esc50"), tmp_path / "out")
    counts = {
        split: DatasetInfo.load(tmp_path / "out" / split).num_samples for split in ("train", "valid", "test")
    }
    assert counts == {"train": 6, "valid": 2, "test": 2}
