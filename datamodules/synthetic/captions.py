"""What a person might say of a piece, in several phrasings, from the attributes that made it."""

from __future__ import annotations

from lightning_audio.batch import Attributes

# As adjectives: "a medium tempo melody", "a middle register organ".
TEMPO_WORDS = {"slow": "slow", "medium": "medium tempo", "fast": "fast"}
REGISTER_WORDS = {"low": "low", "middle": "middle register", "high": "high"}

MELODY_PHRASINGS = (
    "a {tempo_word} melody on a {register_word} {instrument} in {key}",
    "{an_instrument} playing a {mood} tune in the {register} register at a {tempo} tempo",
    "{tempo} tempo, {register} register, {instrument}, {key}",
    "a {mood} {instrument} solo in the {register} register, {tempo} tempo, {bpm:.0f} bpm",
)
GROOVE_PHRASINGS = (
    "a {tempo_word} beat on {register_word} {instrument}",
    "{instrument} playing a steady groove in the {register} register at a {tempo} tempo",
    "{tempo} tempo, {register} register, {instrument}, groove",
    "a {tempo_word} groove of {instrument} tuned to the {register} register, {bpm:.0f} bpm",
)


def captions(attributes: Attributes) -> list[str]:
    """The piece's captions: each names instrument, register and tempo class as the attributes do."""
    instrument = attributes["instrument"]
    words = {
        **attributes,
        "tempo_word": TEMPO_WORDS[attributes["tempo"]],
        "register_word": REGISTER_WORDS[attributes["register"]],
        "an_instrument": f"{'an' if instrument[0] in 'aeiou' else 'a'} {instrument}",
    }
    phrasings = GROOVE_PHRASINGS if attributes["key"] is None else MELODY_PHRASINGS
    return [phrasing.format(**words) for phrasing in phrasings]
