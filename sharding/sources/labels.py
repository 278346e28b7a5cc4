"""Labels become a caption by one rule, here and nowhere else.

Each label in lower case, "_" as a space, repeated ones left out, joined by commas in the order in which the
collection gives them: ["Dog", "Bark", "Animal"] -> "dog, bark, animal". No words are added, removed or
reordered. The labels themselves stay attributes.

Where a sound library says what a file holds in its name alone, the name is first cut into labels:
"AMBForst_Creek - Birds_FTUS_TAS 02.wav" -> ["Creek", "Birds"] -> "creek, birds".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# A name in the Universal Category System: CatID[-user category]_[vendor category-]name_creator_source[_more].
# CatIDs are a category in capitals and a subcategory, as AMBForst or MAGAngl; a category alone ("RAIN") could be
# any word in capitals, so it counts only with a user category after it.
_UCS_NAME = re.compile(r"(?:[A-Z]{2,6}[a-z][A-Za-z]{0,5}(?:-[^_]*)?|[A-Z]{2,6}-[^_]*)_(?P<name>[^_]+)(?:_|$)")
_TECHNICAL_NOTE = re.compile(r"\[[^]]*\]")
_TRACK_NUMBER = re.compile(r"^(?:0\d+|\d{1,3}(?=\s*[-.]))[\s.-]+(?=\S)")
_TAKE_NUMBER = re.compile(r"(?:[\s,_-]+(?:take|version|x)?[\s_]*\d{1,3})+$", re.IGNORECASE)


def caption_from_labels(labels: Iterable[str]) -> str:
    """One caption of all labels, by the rule above. No labels: the empty text."""
    plain = (" ".join(label.replace("_", " ").lower().split()) for label in labels)
    return ", ".join(dict.fromkeys(label for label in plain if label))


def labels_from_name(stem: str) -> list[str]:
    """A file's name, without its suffix, cut at commas and free-standing or vendor's hyphens into labels.

    Of a name in the Universal Category System only the part that describes. Without the numbers of tracks and
    takes, and without [notes in brackets], which tell how it was recorded.
    """
    ucs = _UCS_NAME.match(stem)
    text = _TECHNICAL_NOTE.sub(" ", ucs["name"] if ucs else stem).strip()
    if ucs:  # the vendor's category, such as a place, stands before the first hyphen
        text = text.replace("-", ", ", 1)
    text = _TRACK_NUMBER.sub("", recording_name(text.replace("_", " ")))
    return [label for part in re.split(r",|\s-\s", text) if (label := " ".join(part.split()))]


def recording_name(stem: str) -> str:
    """The name without the number of its take, so that takes of one recording have one name."""
    return _TAKE_NUMBER.sub("", stem) or stem
