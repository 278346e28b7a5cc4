"""Free To Use Sounds' all-in-one bundle: field recordings from all over the world.

    <collection>/
        WATRFlow-L,R,Ls,Rs,Lh,Rh,Lsh,Rsh_Australia-Water, Flow, Calm Forest River, Tasmania, 04.wav
        ORTF_3D_Metadata.csv                       columns RecID, Filename, Description, ...

What is heard is in the names, in newer collections by the Universal Category System, and in a table where one is
there. Assumed, since the bundle is sold and has no description in print: folders of collections of any name and
depth, and the column Filename of the table. There are no official splits; takes of a recording are one group.
"""

from __future__ import annotations

from pathlib import Path

from sharding.sources.clip import Clip
from sharding.sources.sound_library import recording, sound_library


def free_to_use_sounds(path: str | Path) -> list[Clip]:
    """Every file of the bundle."""
    return sound_library(path, recording)
