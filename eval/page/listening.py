"""Players: each sound with its waveform, its spectrogram and what is known of it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import soundfile
from torch import Tensor

from eval.page.markup import Markup, tag
from eval.page.pictures import data_uri, spectrogram, waveform
from lightning_audio.audio import resample

LARGEST_LOSSLESS = 8_000_000
"""Bytes of FLAC in one page, beyond which all its sounds are MP3."""
LARGEST_TOTAL = 10_000_000
"""Bytes of sound in one page, beyond which the last sounds have pictures and no player."""
MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""Hz."""


@dataclass(frozen=True)
class Sound:
    """One thing to listen to.  wav [C, L] float; `note` is one short line below it."""

    label: str
    wav: Tensor
    sample_rate: int
    note: str = ""

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.wav.shape[-1] / self.sample_rate

    @property
    def num_not_finite(self) -> int:
        return int((~self.wav.isfinite()).sum())

    @property
    def peak(self) -> float:
        """The largest absolute sample, those that are not finite left out."""
        return float(self.wav.abs().nan_to_num(0.0, 0.0, 0.0).max()) if self.wav.numel() else 0.0


@dataclass(frozen=True)
class Fact:
    """A label and its value beside a clip; `good` marks it as right or wrong where that is known."""

    label: str
    value: str
    good: bool | None = None


@dataclass(frozen=True)
class Clip:
    """Sounds that belong together, such as an original and its reconstruction, under one title."""

    title: str
    sounds: Sequence[Sound]
    facts: Sequence[Fact] = ()


@dataclass(frozen=True)
class Listening:
    """A section of clips with a heading and a line on what to listen for."""

    title: str
    about: str
    clips: Sequence[Clip] = field(default_factory=list)


def flac(sound: Sound) -> bytes:
    """16-bit FLAC, which every current browser plays."""
    return _encode(sound, "FLAC", "PCM_16")


def mp3(sound: Sound) -> bytes:
    """MP3, about a fifth of FLAC's size; it knows few sample rates, another goes to the next of them."""
    rate = next((rate for rate in MP3_RATES if rate >= sound.sample_rate), MP3_RATES[-1])
    wav = resample(_playable(sound.wav), sound.sample_rate, rate)
    return _encode(replace(sound, wav=wav, sample_rate=rate), "MP3", "MPEG_LAYER_III")


def _encode(sound: Sound, container: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(
        buffer, _playable(sound.wav).T.numpy(), sound.sample_rate, format=container, subtype=subtype
    )
    return buffer.getvalue()


def _playable(wav: Tensor) -> Tensor:
    """Within [-1, 1], and 0 where a sample is not finite."""
    return wav.detach().float().cpu().nan_to_num(0.0, 0.0, 0.0).clamp(-1.0, 1.0)


def encode_sounds(sounds: Sequence[Sound]) -> tuple[str, list[bytes | None]]:
    """The media type and the file of each sound; None for those that no longer fit in the page."""
    if sum(map(len, files := [flac(sound) for sound in sounds])) <= LARGEST_LOSSLESS:
        return "audio/flac", list(files)
    kept: list[bytes | None] = []
    room = LARGEST_TOTAL
    for file in (mp3(sound) for sound in sounds):
        room -= len(file)
        kept.append(file if room >= 0 else None)
    return "audio/mpeg", kept


def listening_sections(sections: Sequence[Listening]) -> list[Markup]:
    """Each section with its clips; sounds are encoded together, to share the page's room."""
    sounds = [sound for section in sections for clip in section.clips for sound in clip.sounds]
    media_type, encoded = encode_sounds(sounds)
    files = iter(encoded)
    return [_section(section, media_type, files) for section in sections]


def _section(section: Listening, media_type: str, files: Iterator[bytes | None]) -> Markup:
    clips = [_clip(clip, media_type, files) for clip in section.clips]
    return tag(
        "div",
        tag("p", section.about, class_="muted") if section.about else None,
        tag("div", *clips, class_="clips") if clips else tag("p", "No clips were given.", class_="muted"),
    )


def _clip(clip: Clip, media_type: str, files: Iterator[bytes | None]) -> Markup:
    facts = [
        tag("li", tag("span", fact.label), " ", fact.value, _mark(fact.good), class_=_shade(fact.good))
        for fact in clip.facts
    ]
    # Waveforms of one clip share a scale, so that a reconstruction that lost level looks it.
    peak = max(0.05, *(sound.peak for sound in clip.sounds)) if clip.sounds else 1.0
    return tag(
        "article",
        tag("h3", clip.title),
        tag("ul", *facts, class_="facts") if facts else None,
        tag("div", *[sound_figure(s, peak, media_type, next(files)) for s in clip.sounds], class_="sounds"),
        class_="panel clip",
    )


def _mark(good: bool | None) -> str | None:
    return None if good is None else (" ✓" if good else " ✗")


def _shade(good: bool | None) -> str | None:
    return None if good is None else ("good" if good else "bad")


def sound_figure(sound: Sound, peak: float, media_type: str, file: bytes | None) -> Markup:
    """A sound with its pictures and player; `peak` fills the height of its waveform, `file` is its encoding."""
    broken = sound.num_not_finite
    empty = sound.wav.shape[-1] == 0
    extent = f"{sound.duration:.1f} s · 0–{sound.sample_rate / 2000:g} kHz (mel) · peak {sound.peak:.2f}"
    return tag(
        "figure",
        tag("figcaption", tag("b", sound.label), tag("span", extent, class_="muted")),
        tag("p", f"{broken} samples are not finite and are played as silence", class_="warning")
        if broken
        else None,
        tag("p", "this sound is empty", class_="warning") if empty else None,
        tag("div", *_pictures(sound, peak), tag("i", class_="playhead"), class_="views")
        if not empty
        else None,
        _player(sound, media_type, file) if not empty else None,
        tag("p", sound.note, class_="muted note") if sound.note else None,
        class_="sound",
    )


def _pictures(sound: Sound, peak: float) -> tuple[Markup, Markup]:
    picture = data_uri("image/png", spectrogram(sound.wav.detach().cpu(), sound.sample_rate))
    image = tag("img", src=picture, alt=f"Log-mel spectrogram of {sound.label}", class_="mel")
    return waveform(sound.wav.detach().cpu(), peak), image


def _player(sound: Sound, media_type: str, file: bytes | None) -> Markup:
    if file is None:
        return tag(
            "p", "left out of the page for its size; the file is in the run folder", class_="muted note"
        )
    return tag(
        "audio", src=data_uri(media_type, file), controls=True, preload="metadata", aria_label=sound.label
    )
