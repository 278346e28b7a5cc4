"""The page of a blind listening test: two sounds without names for each item, and a choice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from eval.listening_test import ListeningTest, empty_votes
from eval.page.document import render_page
from eval.page.listening import LARGEST_TOTAL, Sound, encode_sounds
from eval.page.markup import Markup, tag
from eval.page.pictures import data_uri
from lightning_audio.audio import normalize_loudness

LOUDNESS = -14.0
"""LUFS to which all sounds are brought, since the louder of two is liked better; MusicGen's human studies used it."""
LABELS = {"first": "The first", "tie": "No difference", "second": "The second"}


def listening_test_page(
    test: ListeningTest, prompts: Mapping[str, str], sounds: Mapping[str, Sequence[Sound]], *, question: str
) -> str:
    """The page as text.  sounds: of each item, the two cards' clips in the order of the cards."""
    heard = [
        _levelled(sounds[item][which])
        for item, first in zip(test.items, test.first, strict=True)
        for which in (first, 1 - first)
    ]
    media_type, files = encode_sounds(heard)
    if any(file is None for file in files):
        raise ValueError(
            f"{len(heard)} sounds ({sum(s.duration for s in heard):.0f} s) take more than the "
            f"{LARGEST_TOTAL / 1e6:.0f} MB that one page may hold: choose fewer items"
        )
    uris = [data_uri(media_type, file or b"") for file in files]
    trials = [_trial(i, prompts.get(item, ""), uris[2 * i : 2 * i + 2]) for i, item in enumerate(test.items)]
    about = tag("p", f"All sounds are at the same loudness, {LOUDNESS:g} LUFS.", class_="muted")
    return render_page(
        "Listening test",
        _header(test, question),
        [("clips", "Clips", tag("div", about, tag("div", *trials, class_="clips")))],
        script_file="blind.js",
    )


def _levelled(sound: Sound) -> Sound:
    playable = sound.wav.detach().float().cpu().nan_to_num(0.0, 0.0, 0.0)
    return Sound(
        sound.label, normalize_loudness(playable, sound.sample_rate, loudness=LOUDNESS), sound.sample_rate
    )


def _header(test: ListeningTest, question: str) -> Markup:
    explained = (
        "Play both sounds of a clip, as often as you like, then choose. Your choices stay in this browser; "
        "when you are done, save them as a file and send that file back."
    )
    return tag(
        "header",
        tag("h1", "Listening test"),
        tag("p", question, class_="summary"),
        tag("p", explained),
        tag(
            "div",
            tag("b", f"0 of {len(test.items)} judged", class_="progress", role="status"),
            tag("button", "Save votes", type="button", class_="save"),
            tag("button", "Begin anew", type="button", class_="clear"),
            class_="toolbar",
        ),
        id="test",
        data_test=json.dumps(empty_votes(test), ensure_ascii=False),
    )


def _trial(number: int, prompt: str, uris: Sequence[str]) -> Markup:
    figures = [
        tag(
            "figure",
            tag("figcaption", tag("b", label)),
            tag(
                "audio",
                src=uri,
                controls=True,
                preload="metadata",
                aria_label=f"{label} of clip {number + 1}",
            ),
            class_="sound",
        )
        for label, uri in zip(("First", "Second"), uris, strict=True)
    ]
    choices = [
        tag("label", tag("input", type="radio", name=f"clip-{number}", value=choice), tag("span", label))
        for choice, label in LABELS.items()
    ]
    return tag(
        "article",
        tag("h3", f"{number + 1}. {prompt}".rstrip()),
        tag("div", *figures, class_="sounds"),
        tag("fieldset", tag("legend", "Which is better?"), *choices, disabled=True, class_="choices"),
        class_="panel clip trial",
    )
