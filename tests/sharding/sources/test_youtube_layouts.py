"""AudioSet, AudioCaps, VGGSound and MusicCaps, whose audio is of YouTube videos and never complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sharding.sources import Clip, find_clips
from sharding.sources.audioset import audioset
from sharding.sources.musiccaps import musiccaps

Plant = Callable[[dict[str, str]], Path]

LABELS = 'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/0brhx,"Child speech, kid speaking"\n'
ONTOLOGY = '[{"id": "/m/09x0r", "name": "Speech"}, {"id": "/m/0brhx", "name": "Child speech, kid speaking"}]'
HEADER = """\
# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=3, num_segs=3, num_unique_labels=2, num_positive_labels=4
# YTID, start_seconds, end_seconds, positive_labels
"""
BALANCED = (
    HEADER + '--4gqARaEJE, 0.000, 10.000, "/m/09x0r,/m/0brhx"\nYoungTube01, 30.000, 40.000, "/m/09x0r"\n'
)
EVAL = HEADER + '-_gone_-_00, 10.000, 20.000, "/m/09x0r"\n0_evaluatio, 110.000, 117.000, "/m/09x0r"\n'


def audioset_tree(labels: dict[str, str]) -> dict[str, str]:
    return {
        **labels,
        "balanced_train_segments.csv": BALANCED,
        "eval_segments.csv": EVAL,
        "audio/balanced_train/Y--4gqARaEJE.wav": "",
        "audio/balanced_train/YoungTube01_30.000_40.000.flac": "",
        "audio/eval/0_evaluatio_000110.wav": "",
        "audio/eval/unnamed.wav": "",
    }


@pytest.mark.parametrize(
    "labels",
    [{"class_labels_indices.csv": LABELS}, {"metadata/ontology.json": ONTOLOGY}],
    ids=["csv", "ontology"],
)
def test_audioset(labels: dict[str, str], plant: Plant) -> None:
    root = plant(audioset_tree(labels))
    with pytest.warns(
        UserWarning, match=r"eval_segments.csv line 4: .* -_gone_-_00 at 10 s; 1 of the 2 clips"
    ):
        clips = find_clips(root, layout="audioset")
    first = Clip(
        "audio/balanced_train/Y--4gqARaEJE.wav",
        root / "audio/balanced_train/Y--4gqARaEJE.wav",
        {
            "description": "speech, child speech, kid speaking",
            "labels": ["Speech", "Child speech, kid speaking"],
            "youtube_id": "--4gqARaEJE",
            "youtube_start": 0.0,
        },
        "train",
        group="--4gqARaEJE",
    )
    assert clips[0] == first
    assert [(clip.name, clip.split, clip.attributes["description"], clip.start) for clip in clips[1:]] == [
        ("audio/balanced_train/YoungTube01_30.000_40.000.flac", "train", "speech", 0.0),
        ("audio/eval/0_evaluatio_000110.wav", "test", "speech", 0.0),
    ]


def test_whole_videos_are_stretches_of_their_file(plant: Plant) -> None:
    root = plant(audioset_tree({"class_labels_indices.csv": LABELS}) | {"audio/eval/-_gone_-_00.mp3": ""})
    clips = audioset(root, whole_videos=True)
    assert [(clip.path.name, clip.start, clip.duration) for clip in clips] == [
        ("Y--4gqARaEJE.wav", 0.0, 10.0),
        ("YoungTube01_30.000_40.000.flac", 0.0, None),  # cut already, as its name says
        ("-_gone_-_00.mp3", 10.0, 10.0),
        ("0_evaluatio_000110.wav", 0.0, None),
    ]
    assert clips[2].name == "audio/eval/-_gone_-_00_10.mp3"


def test_audiocaps(plant: Plant) -> None:
    header = "audiocap_id,youtube_id,start_time,caption\n"
    root = plant(
        {
            "train.csv": header + "91139,r1nicOVtvkQ,130,A woman talks nearby as water pours\n",
            "val.csv": header
            + '97151,vfY_TJq7n_U,130,Rustling occurs\n97152,vfY_TJq7n_U,130,"Ducks quack, loud"\n',
            "test.csv": header + "1,gone_gone_1,30,Never heard\n",
            "r1nicOVtvkQ.wav": "",
            "vfY_TJq7n_U_130000_140000.wav": "",  # in ms
        }
    )
    with pytest.warns(UserWarning, match=r"test.csv line 2.*1 of the 1"):
        train, valid = find_clips(root, layout="audiocaps")
    assert (train.name, train.split, train.group, train.start) == (
        "r1nicOVtvkQ.wav",
        "train",
        "r1nicOVtvkQ",
        0.0,
    )
    assert train.attributes == {
        "description": "A woman talks nearby as water pours",
        "audiocap_id": "91139",
        "youtube_id": "r1nicOVtvkQ",
        "youtube_start": 130.0,
    }
    assert (valid.name, valid.split) == ("vfY_TJq7n_U_130000_140000.wav", "valid")
    assert valid.attributes["description"] == ["Rustling occurs", "Ducks quack, loud"]


def test_vggsound(plant: Plant) -> None:
    root = plant(
        {
            "vggsound.csv": '---g-f_I2yQ,1,people marching,test\n--0PQM4-hqg,30,"dog barking, howling",train\n',
            "audio/---g-f_I2yQ_000001.wav": "",
            "audio/--0PQM4-hqg_000030.wav": "",
        }
    )
    clips = find_clips(root, layout="vggsound")
    assert [
        (clip.name, clip.split, clip.group, clip.attributes["description"], clip.attributes["labels"])
        for clip in clips
    ] == [
        ("audio/---g-f_I2yQ_000001.wav", "test", "---g-f_I2yQ", "people marching", ["people marching"]),
        (
            "audio/--0PQM4-hqg_000030.wav",
            "train",
            "--0PQM4-hqg",
            "dog barking, howling",
            ["dog barking, howling"],
        ),
    ]


MUSICCAPS = """\
ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,is_audioset_eval
-0Gj8-vB1q4,30,40,"/m/0140xf,/m/02cjck","['low quality', ""singer's""]","The low quality recording
features a ballad",4,False,True
_-kssA-FOzU,0,10,/m/04rlf,['jazzy'],Jazz,4,True,False
"""


def test_musiccaps(plant: Plant) -> None:
    root = plant({"musiccaps-public.csv": MUSICCAPS, "[-0Gj8-vB1q4]-[30-40].wav": "", "_-kssA-FOzU.wav": ""})
    first, second = find_clips(root, layout="musiccaps")
    assert first.attributes == {
        "description": "The low quality recording\nfeatures a ballad",
        "keywords": ["low quality", "singer's"],
        "audioset_labels": ["/m/0140xf", "/m/02cjck"],
        "youtube_id": "-0Gj8-vB1q4",
        "youtube_start": 30.0,
    }
    assert [(clip.name, clip.split) for clip in (first, second)] == [
        ("[-0Gj8-vB1q4]-[30-40].wav", "test"),
        ("_-kssA-FOzU.wav", "train"),
    ]
    assert {clip.split for clip in musiccaps(root, everything_is_test=True)} == {"test"}


@pytest.mark.parametrize(
    ("layout", "files", "error", "says"),
    [
        ("audioset", {"a.wav": ""}, FileNotFoundError, "balanced_train_segments.csv nor unbal"),
        (
            "audioset",
            {"a.wav": "", "eval_segments.csv": EVAL},
            FileNotFoundError,
            "class_labels_indices.csv nor ontology",
        ),
        (
            "audioset",
            {"a.wav": "", "eval_segments.csv": EVAL, "class_labels_indices.csv": "index,mid\n"},
            ValueError,
            "no column 'display_name'; its columns are index, mid",
        ),
        (
            "audioset",
            {"a.wav": "", "eval_segments.csv": EVAL, "ontology.json": '{"a": 1}'},
            ValueError,
            "not AudioSet's ontology",
        ),
        (
            "audioset",
            {"a.wav": "", "eval_segments.csv": EVAL, "ontology.json": "[]"},
            ValueError,
            "line 4: no table names the label '/m/09x0r'",
        ),
        (
            "audioset",
            {"a.wav": "", "eval_segments.csv": EVAL, "class_labels_indices.csv": LABELS},
            ValueError,
            "audio of none of the 2 clips",
        ),
        ("audioset", {"eval_segments.csv": EVAL}, FileNotFoundError, "no audio in"),
        ("audiocaps", {"a.wav": ""}, FileNotFoundError, "train.csv nor val.csv nor test.csv"),
        (
            "audiocaps",
            {"a.wav": "", "val.csv": "youtube_id,caption\n"},
            ValueError,
            "no column 'audiocap_id' nor 'start_time'",
        ),
        (
            "audiocaps",
            {"a.wav": "", "val.csv": "audiocap_id,youtube_id,start_time,caption\n1,x,soon,c\n"},
            ValueError,
            "val.csv line 2: 'soon' is no time",
        ),
        (
            "audiocaps",
            {
                "a.wav": "",
                "val.csv": "audiocap_id,youtube_id,start_time,caption\n1,x,1,c\n",
                "train.csv": "audiocap_id,youtube_id,start_time,caption\n2,x,1,c\n",
            },
            ValueError,
            "x is in train and in valid",
        ),
        ("vggsound", {"a.wav": ""}, FileNotFoundError, "vggsound.csv"),
        (
            "vggsound",
            {"a.wav": "", "vggsound.csv": "x,1,dog,training day\n"},
            ValueError,
            "line 1 is no video, start",
        ),
        (
            "vggsound",
            {"_-kssA-FOzU.wav": "", "vggsound.csv": "_-kssA-FOzU,1,dog,train\n_-kssA-FOzU,20,dog,train\n"},
            ValueError,
            "at 1 s or at 20 s: its name must",
        ),
        ("musiccaps", {"a.wav": "", "musiccaps-public.csv": "ytid\n"}, ValueError, "no column 'start_s'"),
        (
            "musiccaps",
            {"a.wav": "", "musiccaps-public.csv": MUSICCAPS.replace("[", "(")},
            ValueError,
            "line 3: .* is no list of aspects",
        ),
    ],
)
def test_bad_input_is_one_clear_line(
    layout: str, files: dict[str, str], error: type[Exception], says: str, plant: Plant
) -> None:
    with pytest.raises(error, match=says) as caught:
        find_clips(plant(files), layout=layout)
    assert "\n" not in str(caught.value)
