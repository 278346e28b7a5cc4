"""MTG-Jamendo and FMA, which are published in parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sharding.sources import Clip, find_clips
from sharding.sources.mtg_jamendo import mtg_jamendo

Plant = Callable[[dict[str, str]], Path]

JAMENDO = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"
SPLIT = "data/splits/split-0/autotagging-{}.tsv"


def jamendo_tree() -> dict[str, str]:
    return {
        SPLIT.format("train"): JAMENDO
        + "track_0000948\tartist_000087\talbum_000149\t48/948.mp3\t212.7\t"
        + "genre---rock\tinstrument---guitar\tmood/theme---happy\n"
        + "track_0001001\tartist_000087\talbum_000149\t01/1001.mp3\t100.0\tgenre---pop\n",
        SPLIT.format("validation"): JAMENDO
        + "track_0000949\tartist_2\talbum_3\t49/949.mp3\t30.0\tgenre---pop\tgenre---rock\n",
        SPLIT.format("test"): JAMENDO
        + "track_0000950\tartist_4\talbum_3\t50/950.mp3\t30.0\tmood/theme---dark\n",
        "audio/48/948.mp3": "",
        "audio/01/1001.mp3": "",
        "audio/49/949.low.mp3": "",
        "audio/50/950.mp3": "",
    }


def test_mtg_jamendo(plant: Plant) -> None:
    root = plant(jamendo_tree() | {"data/splits/split-1/autotagging_genre-test.tsv": JAMENDO})
    (root / "audio/01/1001.mp3").unlink()
    with pytest.warns(
        UserWarning, match=r"autotagging-train.tsv line 3: there is no 01/1001.mp3; 1 of the 2"
    ):
        first, *others = find_clips(root, layout="mtg_jamendo")
    assert first == Clip(
        "audio/48/948.mp3",
        root / "audio/48/948.mp3",
        {
            "description": "rock, guitar, happy",
            "genre": ["rock"],
            "instrument": ["guitar"],
            "moods": ["happy"],
            "artist": "artist_000087",
        },
        "train",
        group="artist_000087",
    )
    assert [(clip.name, clip.split, clip.attributes["description"]) for clip in others] == [
        ("audio/49/949.low.mp3", "valid", "pop, rock"),
        ("audio/50/950.mp3", "test", "dark"),
    ]
    with pytest.raises(FileNotFoundError, match=r"split-1/autotagging_genre-train\.tsv"):
        mtg_jamendo(root, subset="autotagging_genre", split_number=1)


FMA = (
    ",album,artist,artist,set,set,track,track,track,track\n"
    ",title,id,name,split,subset,genre_top,genres,license,title\n"
    "track_id,,,,,,,,,\n"
)
GENRES = "genre_id,#tracks,parent,title,top_level\n21,12,0,Hip-Hop,21\n76,1,12,Experimental Pop,10\n"
FMA_ROWS = (
    '2,AWOL,1,"AWOL, A",training,small,Hip-Hop,"[21, 76]",CC BY,Food\n'
    "134,AWOL,1,AWOL,validation,large,,[],CC BY,Street\n"
    "106574,X,9,Nine,test,large,,[76],CC BY-NC,End\n"
    "5,X,9,Nine,test,large,,[76],CC BY-NC,Gone\n"
)


def test_fma(plant: Plant) -> None:
    root = plant(
        {
            "fma_metadata/tracks.csv": FMA + FMA_ROWS,
            "fma_metadata/genres.csv": GENRES,
            "fma_large/000/000002.mp3": "",
            "fma_large/000/000134.mp3": "",
            "fma_large/106/106574.mp3": "",
        }
    )
    with pytest.warns(UserWarning, match=r"tracks.csv line 7: there is no 000005.mp3; 1 of the 4"):
        first, *others = find_clips(root, layout="fma")
    assert first == Clip(
        "fma_large/000/000002.mp3",
        root / "fma_large/000/000002.mp3",
        {
            "description": "hip-hop, experimental pop",
            "genre": ["Hip-Hop", "Experimental Pop"],
            "title": "Food",
            "artist": "AWOL, A",
            "license": "CC BY",
        },
        "train",
        group="1",
    )
    assert [(clip.name, clip.split, clip.group, clip.attributes.get("description")) for clip in others] == [
        ("fma_large/000/000134.mp3", "valid", "1", None),
        ("fma_large/106/106574.mp3", "test", "9", "experimental pop"),
    ]


@pytest.mark.parametrize(
    ("layout", "files", "error", "says"),
    [
        ("mtg_jamendo", {"a.mp3": ""}, FileNotFoundError, "split-0/autotagging-train.tsv"),
        (
            "mtg_jamendo",
            jamendo_tree() | {SPLIT.format("test"): "TRACK_ID\tPATH\n"},
            ValueError,
            "has the columns TRACK_ID, PATH; they should",
        ),
        (
            "mtg_jamendo",
            jamendo_tree() | {SPLIT.format("test"): JAMENDO + "track_1\ta\n"},
            ValueError,
            "line 2 has 2 fields, not 6",
        ),
        (
            "mtg_jamendo",
            jamendo_tree() | {SPLIT.format("test"): JAMENDO + "t\ta\tb\t50/950.mp3\t1\tcolour---dark\n"},
            ValueError,
            "line 2: 'colour---dark' is no tag of",
        ),
        ("fma", {"a.mp3": ""}, FileNotFoundError, "tracks.csv"),
        ("fma", {"a.mp3": "", "tracks.csv": FMA}, FileNotFoundError, "genres.csv"),
        (
            "fma",
            {"a.mp3": "", "genres.csv": GENRES, "tracks.csv": FMA.replace("split", "part")},
            ValueError,
            "no column 'set.split' in its header of three lines",
        ),
        (
            "fma",
            {"a.mp3": "", "genres.csv": GENRES, "tracks.csv": FMA + "2,short\n"},
            ValueError,
            "line 4 has 2 fields, the header 10",
        ),
        (
            "fma",
            {"000002.mp3": "", "genres.csv": GENRES, "tracks.csv": FMA + FMA_ROWS.replace("76", "77")},
            ValueError,
            r"line 4: '\[21, 77\]' are no genres",
        ),
        (
            "fma",
            {
                "000002.mp3": "",
                "genres.csv": GENRES,
                "tracks.csv": FMA + FMA_ROWS.replace("training", "some"),
            },
            ValueError,
            "line 4: the split 'some'",
        ),
        (
            "fma",
            {"a.mp3": "", "genres.csv": GENRES, "tracks.csv": FMA + FMA_ROWS},
            ValueError,
            "none of the 4 tracks",
        ),
    ],
)
def test_bad_input_is_one_clear_line(
    layout: str, files: dict[str, str], error: type[Exception], says: str, plant: Plant
) -> None:
    with pytest.raises(error, match=says) as caught:
        find_clips(plant(files), layout=layout)
    assert "\n" not in str(caught.value)
