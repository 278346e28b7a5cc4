"""BBC Sound Effects, and the libraries whose files are described by their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sharding.sources import Clip, find_clips
from sharding.splits import assign_splits

Plant = Callable[[dict[str, str]], Path]

BBC = "location,description,secs,category,CDNumber,CDName,tracknum\n"


def test_bbc_sound_effects(plant: Plant) -> None:
    root = plant(
        {
            "BBCSoundEffects.csv": BBC
            + '07076051.wav,"Two-stroke petrol engine:  run, stop.",194,Engines: Petrol,EC117D,'
            + "Diesel & Petrol Engines,6\n"
            + "07076052.wav,Birds,10,,,,\n07076053.wav,Gone,10,,,,\n",
            "sounds/Diesel & Petrol Engines/Two-stroke petrol engine_ run, stop..07076051.wav": "",
            "07076052.flac": "",
        }
    )
    with pytest.warns(UserWarning, match=r"line 4: there is no 07076053.wav; 1 of the 3"):
        first, second = find_clips(root, layout="bbc_sound_effects")
    name = "sounds/Diesel & Petrol Engines/Two-stroke petrol engine_ run, stop..07076051.wav"
    assert first == Clip(
        name,
        root / name,
        {
            "description": "Two-stroke petrol engine: run, stop.",
            "labels": ["Engines: Petrol"],
            "album": "Diesel & Petrol Engines",
        },
        group="EC117D",
    )
    assert second == Clip("07076052.flac", root / "07076052.flac", {"description": "Birds"})


def test_sonniss_gdc_is_grouped_by_publisher(plant: Plant) -> None:
    names = [
        "344 Audio - Cinematic Fight Vol. 1/FGHTImpt_4 x Punch, Body 02_344 Audio_Cinematic Fight Vol 1.wav",
        "Sonniss.com - GDC 2017 - Game Audio Bundle Part 3of9/Double Trouble Audio - Tanks and Jet/"
        "TAJ - Tank Fire [XY Stereo]-001.wav",
        "Sonniss.com-GDC2024-GameAudioBundle6of9/Double Trouble Audio - Boats/deep/Row_Boat 3.wav",
        "Sonniss.com-GDC2024-GameAudioBundle6of9/Licensing.wav",
    ]
    clips = find_clips(plant(dict.fromkeys(names, "")), layout="sonniss_gdc")
    assert [clip.name for clip in clips] == names
    assert [clip.group for clip in clips[:3]] == ["344 audio", "double trouble audio", "double trouble audio"]
    assert [clip.attributes for clip in clips[:3]] == [
        {
            "description": "4 x punch, body",
            "labels": ["4 x Punch", "Body"],
            "artist": "344 Audio",
            "library": "Cinematic Fight Vol. 1",
        },
        {
            "description": "taj, tank fire",
            "labels": ["TAJ", "Tank Fire"],
            "artist": "Double Trouble Audio",
            "library": "Tanks and Jet",
        },
        {
            "description": "row boat",
            "labels": ["Row Boat"],
            "artist": "Double Trouble Audio",
            "library": "Boats",
        },
    ]
    assert all(clip.split is None for clip in clips)


@pytest.mark.parametrize("layout", ["free_to_use_sounds", "wesoundeffects", "paramount_motion"])
def test_takes_of_a_recording_are_one_group(layout: str, plant: Plant) -> None:
    names = [f"City/Rain on a Roof, Geelong, {take:02d}.wav" for take in range(1, 5)]
    names += [f"City/Place {chr(65 + i)}.wav" for i in range(20)]
    clips = find_clips(plant(dict.fromkeys(names, "")), layout=layout)
    takes = [clip for clip in clips if "Rain" in clip.name]
    assert {clip.group for clip in takes} == {"city/rain on a roof, geelong"}
    assert takes[0].attributes == {
        "description": "rain on a roof, geelong",
        "labels": ["Rain on a Roof", "Geelong"],
        "library": "City",
    }
    divided = {clip.name: clip.split for clip in assign_splits(clips)}
    assert len({divided[clip.name] for clip in takes}) == 1
    assert len(set(divided.values())) == 3


def test_a_table_beside_a_library_says_more_than_its_names(plant: Plant) -> None:
    root = plant(
        {
            "ORTF_3D_Metadata.csv": "RecID,File Name,Description,Keywords,Category,SubCategory\n"
            '1,a 01.WAV,"Waves, close by","sea, shore; night",WATER,WAVE\n2,b.wav,,,,\n',
            "prices.csv": "item,price\nx,1\n",
            "a 01.wav": "",
            "b.wav": "",
        }
    )
    first, second = find_clips(root, layout="free_to_use_sounds")
    assert first.attributes == {
        "description": "Waves, close by",
        "labels": ["a"],
        "keywords": ["sea", "shore", "night"],
        "categories": ["WATER", "WAVE"],
    }
    assert second.attributes == {"description": "b", "labels": ["b"]}


@pytest.mark.parametrize(
    ("layout", "files", "error", "says"),
    [
        ("bbc_sound_effects", {"a.wav": ""}, FileNotFoundError, "BBCSoundEffects.csv"),
        (
            "bbc_sound_effects",
            {"a.wav": "", "BBCSoundEffects.csv": "location,description\n"},
            ValueError,
            "no column 'category'",
        ),
        (
            "bbc_sound_effects",
            {"a.wav": "", "BBCSoundEffects.csv": BBC + "1.wav,x,1,y,z,w,1\n"},
            ValueError,
            "none of the 1 sounds",
        ),
        ("sonniss_gdc", {"a.txt": ""}, FileNotFoundError, "no audio in"),
        (
            "wesoundeffects",
            {"a.wav": "", "t.csv": "filename\na,b\n"},
            ValueError,
            "line 2: has more fields than the header, 2 > 1",
        ),
    ],
)
def test_bad_input_is_one_clear_line(
    layout: str, files: dict[str, str], error: type[Exception], says: str, plant: Plant
) -> None:
    with pytest.raises(error, match=says):
        find_clips(plant(files), layout=layout)
