"""Conditioners of text: the frozen T5 of the published models, and a small encoder that is trained."""

from __future__ import annotations

import random
import re
import unicodedata
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_audio.batch import length_mask
from lightning_audio.conditioning.augmentation import as_text, drop_words
from lightning_audio.conditioning.base import Condition, Conditioner, Precomputed, pad_rows, pad_steps
from lightning_audio.hashing import weights_hash

T5_DIMS = {
    "t5-small": 512,
    "t5-base": 768,
    "t5-large": 1024,
    "t5-3b": 1024,
    "t5-11b": 1024,
    "google/flan-t5-small": 512,
    "google/flan-t5-base": 768,
    "google/flan-t5-large": 1024,
    "google/flan-t5-xl": 2048,
    "google/flan-t5-xxl": 4096,
}
# Parts beside the text encoder in the files of a MusicGen of transformers.
_OTHER_PARTS = [r"^decoder\.", r"^audio_encoder\.", r"^(audio_)?enc_to_dec_proj\."]


class TextConditioner(Conditioner):
    """What text conditioners share: None and "" mean no text; in training words are left out."""

    word_dropout: float

    def _texts(self, values: Sequence[Any], rng: random.Random | None) -> list[str]:
        texts = [as_text(value) or "" for value in values]
        if self.training and self.word_dropout > 0:
            return [drop_words(text, self.word_dropout, rng) for text in texts]
        return texts


class T5Conditioner(TextConditioner):
    """The last hidden states of a frozen T5 encoder, in float32 whatever the autocast around it.

    The encoder is loaded on first use and is no submodule: it is in no checkpoint, parameter list or `.to()`;
    it follows the device of what it is given, and `encoder_hash` says which weights it has. Text is not
    normalised and not truncated; a batch is padded to its longest text. No text is a row of mask False.
    Encodings may come with the batch (`Precomputed` in place of the text); where all do, T5 is never loaded.

    name: a published T5; its width is known without loading it, so that models build with no download.
    dim: hidden size, for another name.
    path: local folder of the encoder and its tokeniser, of a MusicGen of transformers that holds both, or a
        folder that holds one under `name`; None asks transformers, which looks in its cache and at the hub.
    word_dropout: probability of each word to be left out in training.
    cache_size: encodings of that many texts are kept, for prompts that come again. Not in training: they differ in the
        last digits by the batch in which they were made, which a resumed run has forgotten.
    """

    def __init__(
        self,
        *,
        name: str = "t5-base",
        dim: int | None = None,
        path: str | None = None,
        word_dropout: float = 0.0,
        cache_size: int = 256,
    ) -> None:
        super().__init__()
        if dim is None and name not in T5_DIMS:
            raise ValueError(f"give dim, the hidden size of {name!r}; it is known for {list(T5_DIMS)}")
        self.dim = T5_DIMS[name] if dim is None else dim
        self.name, self.path, self.word_dropout, self.cache_size = name, path, word_dropout, cache_size
        self._encoder: list[nn.Module] = []  # in a list, so that it is not registered as a submodule
        self._tokenizer: Any = None
        self._hash: str | None = None
        self._encodings: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def prepare(self, values: Sequence[Any], *, rng: random.Random | None = None) -> dict[str, Tensor]:
        """ids, mask [B, S]; of what is precomputed, given [B, S, D] and given_mask [B, S]."""
        texts = self._texts([None if isinstance(v, Precomputed) else v for v in values], rng)
        prepared = self._tokenized(texts)
        if any(isinstance(value, Precomputed) for value in values):
            rows = [self._given(value) for value in values]
            prepared["given"], prepared["given_mask"] = pad_rows(rows)
        return prepared

    def _tokenized(self, texts: list[str]) -> dict[str, Tensor]:
        if not any(texts):  # as the tokeniser has it, one step of no meaning
            ids = torch.zeros(len(texts), 1, dtype=torch.long)
            return {"ids": ids, "mask": ids.bool()}
        batch = self.tokenizer(texts, return_tensors="pt", padding=True)
        present = torch.tensor([text != "" for text in texts])
        return {"ids": batch["input_ids"], "mask": batch["attention_mask"].bool() & present[:, None]}

    def _given(self, value: Any) -> Tensor:
        if not isinstance(value, Precomputed):
            return torch.zeros(0, self.dim)
        if value.embedding.shape[1] != self.dim:
            raise ValueError(
                f"a precomputed text is {value.embedding.shape[1]} wide, {self.name!r} is {self.dim}"
            )
        return value.embedding.cpu().float()

    @torch.no_grad()
    def forward(self, prepared: dict[str, Tensor]) -> Condition:
        ids, mask = prepared["ids"], prepared["mask"]
        keys = [tuple(row[valid].tolist()) for row, valid in zip(ids.cpu(), mask.cpu(), strict=True)]
        remembered = {} if self.training else self._encodings
        known = {key: remembered[key] for key in keys if key in remembered}
        missing = [key for key in dict.fromkeys(keys) if key and key not in known]
        known |= self._encode(missing, ids.device)
        embedding = torch.zeros(*ids.shape, self.dim, device=ids.device)
        for row, key in zip(embedding, keys, strict=True):
            if key:
                row[: len(key)] = known[key]
        if not self.training:
            self._remember({key: known[key] for key in keys if key})
        if "given" not in prepared:
            return Condition(embedding, mask)
        steps = max(ids.shape[1], prepared["given"].shape[1])
        given, given_mask = (pad_steps(prepared[name], steps) for name in ("given", "given_mask"))
        embedding, mask = pad_steps(embedding, steps), pad_steps(mask, steps)
        return Condition(embedding.where(~given_mask[..., None], given), mask | given_mask)

    def _encode(self, texts: list[tuple[int, ...]], device: torch.device) -> dict[tuple[int, ...], Tensor]:
        """Hidden states [S, D] of each text, given as its token ids."""
        if not texts:
            return {}
        lengths = torch.tensor([len(text) for text in texts])
        ids = nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
        mask = length_mask(lengths, ids.shape[1])
        encoder = self.encoder.to(device)
        with torch.autocast(device.type, enabled=False):
            hidden = encoder(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        return {text: row[: len(text)] for text, row in zip(texts, hidden, strict=True)}

    def _remember(self, encodings: dict[tuple[int, ...], Tensor]) -> None:
        for key, value in encodings.items():
            self._encodings[key] = value.clone() if key not in self._encodings else value
            self._encodings.move_to_end(key)
        while len(self._encodings) > self.cache_size:
            self._encodings.popitem(last=False)

    @property
    def encoder(self) -> nn.Module:
        """The frozen T5 encoder, loaded when first asked for."""
        if not self._encoder:
            with torch.random.fork_rng(devices=[]):  # loading draws weights, and throws them away
                self._encoder.append(self._load_encoder())
        return self._encoder[0]

    @property
    def tokenizer(self) -> Any:
        if self._tokenizer is None:
            from transformers import AutoTokenizer  # slow to import, and not needed to build a model

            self._tokenizer = self._load(AutoTokenizer)
        return self._tokenizer

    @property
    def encoder_hash(self) -> str:
        """Hash of the encoder's weights, to be kept beside a checkpoint that does not hold them."""
        if self._hash is None:
            self._hash = weights_hash(self.encoder)
        return self._hash

    def _load_encoder(self) -> nn.Module:
        from transformers import AutoConfig, T5EncoderModel

        kind: Any = T5EncoderModel
        options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
        if (inner := getattr(self._load(AutoConfig), "text_encoder", None)) is not None:
            # A MusicGen of transformers: the encoder lies in the same files, beside the other parts.
            kind = type("T5WithinMusicGen", (kind,), {"_keys_to_ignore_on_load_unexpected": _OTHER_PARTS})
            options |= {"config": inner, "key_mapping": {r"^text_encoder\.": ""}}
        encoder, info = self._load(kind, **options)
        if inner is not None and (surplus := sorted(info["unexpected_keys"])):
            raise ValueError(f"the text encoder in {self._source()} has a surplus of weights: {surplus[:3]}")
        if absent := sorted(set(info["missing_keys"]) - {"encoder.embed_tokens.weight"}):
            raise ValueError(
                f"{self._source()} is no T5 encoder: it lacks {absent[:3]} ({len(absent)} in all)"
            )
        if encoder.config.d_model != self.dim:
            raise ValueError(
                f"T5 in {self._source()} is {encoder.config.d_model} wide, {self.name!r} here {self.dim}"
            )
        # Embeddings are padded to a multiple of 128 rows. Far fewer words than rows: transformers found no
        # vocabulary and, without a word, made a tokeniser of special tokens only.
        words, rows = len(self.tokenizer), encoder.config.vocab_size
        if not rows - 128 < words <= rows:
            raise ValueError(f"the tokeniser in {self._source()} has {words} words, the encoder {rows}")
        return encoder.eval().requires_grad_(False)

    def _load(self, kind: Any, **options: Any) -> Any:
        try:
            return kind.from_pretrained(self._source(), **options)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"cannot load the text encoder {self.name!r} from {self._source()!r}: put its folder "
                f"(config.json, tokenizer.json or spiece.model, model.safetensors) on this machine and name "
                f"it with `text_encoder=` (in a config: `path`). transformers says: {error}"
            ) from error

    def _source(self) -> str:
        if self.path is None:
            return self.name
        folder = Path(self.path).expanduser()
        inner = folder / self.name
        return str(inner if (inner / "config.json").is_file() else folder)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and loader workers load the encoder for themselves, if they need it at all."""
        return {**self.__dict__, "_encoder": [], "_encodings": OrderedDict()}


class SubwordTextConditioner(TextConditioner):
    """A small text encoder that learns with the model and needs no download.

    A text is its lower-cased words and signs. A word is the mean of the vectors of its pieces: the word
    itself and its runs of 3 to 5 characters, marked at both ends ("<pi", "pia", ..., "no>"), as in fastText.
    Each piece has a row of a table by its CRC-32, the same on every machine; so any Unicode text has a
    meaning, and "pianist" begins near "piano". Then a few pre-norm transformer layers in which each word, at
    its sinusoidal position, sees all words.

    num_buckets: rows of the table.   max_words: what comes after is cut off.
    word_dropout: probability of each word to be left out in training.   dropout: within the layers.
    """

    def __init__(
        self,
        *,
        dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        num_buckets: int = 8192,
        max_words: int = 128,
        word_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim, self.num_buckets, self.max_words, self.word_dropout = (
            dim,
            num_buckets,
            max_words,
            word_dropout,
        )
        self.embed = nn.Embedding(num_buckets + 1, dim, padding_idx=num_buckets)
        layer = nn.TransformerEncoderLayer(
            dim, num_heads, 4 * dim, dropout=dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, nn.LayerNorm(dim), enable_nested_tensor=False)

    def prepare(self, values: Sequence[Any], *, rng: random.Random | None = None) -> dict[str, Tensor]:
        """pieces [B, S, N], rows of the table padded with the padding's; mask [B, S]"""
        rows = [
            [word_pieces(word, self.num_buckets) for word in split_words(text)[: self.max_words]]
            for text in self._texts(values, rng)
        ]
        lengths = torch.tensor([len(row) for row in rows])
        longest = max(1, int(lengths.max()))
        widest = max((len(word) for row in rows for word in row), default=1)
        pieces = torch.full((len(rows), longest, widest), self.num_buckets)
        for b, row in enumerate(rows):
            for s, word in enumerate(row):
                pieces[b, s, : len(word)] = torch.tensor(word)
        return {"pieces": pieces, "mask": length_mask(lengths, longest)}

    def forward(self, prepared: dict[str, Tensor]) -> Condition:
        pieces, mask = prepared["pieces"], prepared["mask"]
        words = F.embedding_bag(
            pieces.flatten(0, 1), self.embed.weight, mode="mean", padding_idx=self.num_buckets
        )
        x = words.view(*mask.shape, self.dim)  # [B, S, D]
        x = x + _sinusoids(mask.shape[1], self.dim, x.device).to(x.dtype)
        ignored = ~mask
        ignored[:, 0] = (
            False  # an empty text attends to its padding: its result is masked, and must not be NaN
        )
        return Condition(self.layers(x, src_key_padding_mask=ignored), mask)


def split_words(text: str) -> list[str]:
    """Words and single signs, in compatibility form and lower case."""
    return re.findall(r"\w+|[^\w\s]", unicodedata.normalize("NFKC", text).lower())


@lru_cache(maxsize=65536)
def word_pieces(word: str, num_buckets: int) -> tuple[int, ...]:
    """Table rows of a word and of its runs of 3 to 5 characters (of its first 32 characters)."""
    marked = f"<{word[:32]}>"
    runs = {marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)}
    pieces = [f"<{word}>", *sorted(runs)]
    return tuple(
        dict.fromkeys(zlib.crc32(piece.encode("utf-8", "replace")) % num_buckets for piece in pieces)
    )


def _sinusoids(length: int, dim: int, device: torch.device) -> Tensor:
    """Positions [S, D]; computed each time, since a buffer would be lost on the way from the meta device."""
    frequency = 10000 ** -(torch.arange(0, dim, 2, device=device) / dim)
    phase = torch.arange(length, device=device)[:, None] * frequency
    return torch.cat([phase.cos(), phase.sin()], dim=1)
