"""What a style is heard by: frozen features of audio, and the layer that learns to bring them to a width.

What is frozen is no submodule: it is in no checkpoint, parameter list or `.to()`, and follows the device of what
it is given.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from lightning_audio.audio import convert


class FeatureCodec(Protocol):
    """The part of a codec that its features need."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def num_codebooks(self) -> int: ...

    @property
    def cardinality(self) -> int: ...

    def encode(self, wav: Tensor, *, num_codebooks: int | None = None) -> Any: ...


class StyleFeatures(nn.Module):
    """Mono audio -> features, in two steps.  dim: width D of what `forward` gives."""

    dim: int

    def extract(self, wav: Tensor, sample_rate: int) -> Tensor:
        """The frozen step: wav [B, 1, L] at `sample_rate` Hz -> what `forward` takes, T frames of it."""
        raise NotImplementedError

    def nothing(self, batch_size: int, device: torch.device) -> Tensor:
        """What `forward` takes, one frame of it, where there is no audio to hear."""
        raise NotImplementedError

    def forward(self, extracted: Tensor) -> Tensor:
        """The step that learns.  -> [B, T, D]"""
        raise NotImplementedError


class CodecFeatures(StyleFeatures):
    """The first codes of a frozen codec, a vector learnt for each, summed over the codebooks.

    num_codebooks: how many.   cardinality: of the codec.
    codec: None is the codec of the model as a whole, given by `use_codec`.
    """

    def __init__(
        self, *, dim: int, cardinality: int, num_codebooks: int = 3, codec: FeatureCodec | None = None
    ) -> None:
        super().__init__()
        self.dim, self.num_codebooks, self.cardinality = dim, num_codebooks, cardinality
        self.embed = nn.ModuleList(nn.Embedding(cardinality, dim) for _ in range(num_codebooks))
        self._codec: list[Any] = []
        if codec is not None:
            self.use_codec(codec)

    @property
    def has_codec(self) -> bool:
        return bool(self._codec)

    def use_codec(self, codec: FeatureCodec) -> None:
        """Hear by this codec from now on."""
        if codec.cardinality != self.cardinality or codec.num_codebooks < self.num_codebooks:
            raise ValueError(
                f"the style wants {self.num_codebooks} codebooks of {self.cardinality} codes, "
                f"the codec has {codec.num_codebooks} of {codec.cardinality}"
            )
        if codec.channels != 1:
            raise ValueError(f"style is heard in mono, the codec has {codec.channels} channels")
        self._codec = [codec]

    @torch.no_grad()
    def extract(self, wav: Tensor, sample_rate: int) -> Tensor:
        """Codes [B, K, T]"""
        if not self._codec:
            raise ValueError("style is heard by codes, and there is no codec: give `codec`, or the task one")
        codec = self._codec[0].to(wav.device)
        wav = convert(wav, sample_rate, codec.sample_rate, 1).to(next(codec.parameters(), wav).dtype)
        with torch.autocast(wav.device.type, enabled=False):
            codes: Tensor = codec.encode(wav).codes
        return codes[:, : self.num_codebooks]

    def nothing(self, batch_size: int, device: torch.device) -> Tensor:
        return torch.zeros(batch_size, self.num_codebooks, 1, dtype=torch.long, device=device)

    def forward(self, extracted: Tensor) -> Tensor:
        vectors = [embed(extracted[:, level]) for level, embed in enumerate(self.embed)]
        return torch.stack(vectors).sum(dim=0)


class MertFeatures(StyleFeatures):
    """The last hidden states of MERT (arXiv 2306.00107), 75 a second, and a linear layer.

    path: local folder of the published `m-a-p/MERT-v1-95M`; None looks in the cache of transformers. MERT is a
        HuBERT whose code comes with its weights; here the weights go into the HuBERT of transformers, and no
        foreign code runs.
    hidden_dim: of MERT.
    """

    NAME = "m-a-p/MERT-v1-95M"
    SAMPLE_RATE = 24_000  # Hz
    # Settings of a MERT that a HuBERT cannot be, with the values that leave it one.
    PLAIN: ClassVar[dict[str, Any]] = {
        "feature_extractor_cqt": False,
        "deepnorm": False,
        "attention_relax": -1.0,
    }

    def __init__(self, *, dim: int, path: str | None = None, hidden_dim: int = 768) -> None:
        super().__init__()
        self.dim, self.path, self.hidden_dim = dim, path, hidden_dim
        self.embed = nn.Linear(hidden_dim, dim)
        self._encoder: list[nn.Module] = []

    @torch.no_grad()
    def extract(self, wav: Tensor, sample_rate: int) -> Tensor:
        """[B, T, hidden_dim]"""
        wav = convert(wav.float(), sample_rate, self.SAMPLE_RATE, 1)[:, 0]
        with torch.autocast(wav.device.type, enabled=False):
            hidden: Tensor = self.encoder.to(wav.device)(wav).last_hidden_state
        return hidden

    def nothing(self, batch_size: int, device: torch.device) -> Tensor:
        return torch.zeros(batch_size, 1, self.hidden_dim, device=device)

    def forward(self, extracted: Tensor) -> Tensor:
        weight = self.embed.weight
        embedded: Tensor = self.embed(extracted.to(weight.dtype))
        return embedded

    @property
    def encoder(self) -> nn.Module:
        """The frozen MERT, loaded when first asked for."""
        if not self._encoder:
            with torch.random.fork_rng(devices=[]):  # loading draws weights, and throws them away
                self._encoder.append(self._load())
        return self._encoder[0]

    def _load(self) -> nn.Module:
        from transformers import HubertConfig, HubertModel, PreTrainedConfig

        source = self.NAME if self.path is None else str(Path(self.path).expanduser())
        try:
            values, _ = PreTrainedConfig.get_config_dict(source)
            config = HubertConfig.from_dict(values)
            kind: Any = HubertModel  # whose signature does not say that there may be a report
            encoder, info = kind.from_pretrained(
                source, config=config, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, json.JSONDecodeError) as error:
            raise FileNotFoundError(
                f"cannot load MERT, which hears the style, from {source!r}: put the folder of {self.NAME} "
                f"(config.json, pytorch_model.bin or model.safetensors) on this machine and name it by "
                f"`path`. transformers says: {error}"
            ) from error
        odd = {name: values[name] for name, plain in self.PLAIN.items() if values.get(name, plain) != plain}
        if odd or values.get("model_type") not in ("mert_model", "hubert"):
            raise ValueError(f"{source} is no MERT-v1 that can be run here: {values.get('model_type')} {odd}")
        if absent := sorted(info["missing_keys"]):
            raise ValueError(f"{source} is no MERT: it lacks {absent[:3]} ({len(absent)} in all)")
        if encoder.config.hidden_size != self.hidden_dim:
            raise ValueError(f"MERT in {source} is {encoder.config.hidden_size} wide, {self.hidden_dim} here")
        frozen: nn.Module = encoder.eval().requires_grad_(False)
        return frozen

    def __getstate__(self) -> dict[str, Any]:
        """Copies and loader workers load MERT for themselves, if they need it at all."""
        return {**self.__dict__, "_encoder": []}
