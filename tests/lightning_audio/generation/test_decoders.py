"""Other decoders in place of the codec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.generation.text_to_audio import TextToAudio


class Recorder:
    """A decoder that draws: it remembers with what."""

    def __init__(self, sample_rate: int = 1600) -> None:
        self.sample_rate = sample_rate
        self.seeds: list[Any] = []
        self.generators: list[Any] = []

    def decode(
        self,
        codes: Tensor,
        *,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        self.seeds.append(seed)
        self.generators.append(generator)
        return codes[:, :1].double()

    def regenerate(self, wav: Tensor, sample_rate: int) -> Tensor:
        return wav


def test_a_decoder_draws_with_the_seeds_of_the_items(model: TextToAudio) -> None:
    decoder = Recorder()
    wav = model.generate(["a", "b"], duration=0.2, seed=7, decoder=decoder)
    assert wav.dtype == torch.float32
    assert wav.shape == (2, 1, 10)
    model.generate(["a", "b"], duration=[0.2, 0.3], seed=[5, 9], decoder=decoder)
    generator = torch.Generator()
    model.generate(["a"], duration=0.2, generator=generator, decoder=decoder)
    assert decoder.seeds == [[7, 8], [5], [9], None]
    assert decoder.generators == [None, None, None, generator]


def test_codes_can_be_decoded_later(model: TextToAudio) -> None:
    tokens = model.generate_tokens(["a"], duration=[0.2])
    (wav,) = model.decode(tokens)
    assert torch.equal(wav, model.generate(["a"], duration=0.2)[0])


def test_a_decoder_by_name_is_found_by_what_load_leaves(model: TextToAudio) -> None:
    asked: list[str] = []
    plain = Recorder()

    def find(name: str) -> Recorder:
        asked.append(name)
        return plain

    model.find_decoder = find
    try:
        model.generate(["a"], duration=0.2, decoder="mbd")
    finally:
        del model.find_decoder
    assert asked == ["mbd"]
    assert plain.seeds == [[0]]


def test_a_decoder_that_does_not_fit_is_refused_before_any_work(model: TextToAudio) -> None:
    for match, decoder in {
        "only a model that came from `load`": "mbd",
        "a decoder has `decode`, got a int": 3,
        "decoder has sample_rate 24000, the codec of the model 1600": Recorder(24000),
    }.items():
        with pytest.raises(ValueError, match=match):
            model.generate(["a"], duration=1e9, decoder=decoder)  # type: ignore[arg-type]
