"""What steers a language model in AudioCraft's packaged form: sections of `xp.cfg`, and weights.

    conditioners: {description: {model: t5, t5: {...}}, self_wav: {model: chroma_stem, chroma_stem: {...}}}
    fuser: {cross: [description], prepend: [self_wav], sum: [], input_interpolate: []}
    condition_provider.conditioners.NAME.{output_proj,...}: weights

The waveform that steers is called `self_wav` there whatever it is for; here it is the `melody` or the `style`.
T5, CLAP, MERT and Demucs are in no checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_audio.checkpoints.audiocraft.layer_names import LAYER_PAIRS
from lightning_audio.checkpoints.codec_state import stack_codebooks, unstack_codebooks
from lightning_audio.checkpoints.keymap import both_ways, rename_keys
from lightning_audio.checkpoints.stored import Config, arguments_of, class_of, node_of
from lightning_audio.codec.codebooks import AudioCraftLearning
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.conditioning.chroma import ChromaConditioner
from lightning_audio.conditioning.clap import ClapConditioner
from lightning_audio.conditioning.conditioning import WAYS, Conditioning
from lightning_audio.conditioning.features import CodecFeatures, MertFeatures
from lightning_audio.conditioning.labels import HashedLabelConditioner
from lightning_audio.conditioning.separation import StemSeparator
from lightning_audio.conditioning.style import StyleConditioner
from lightning_audio.conditioning.text import T5Conditioner

SELF_WAV = "self_wav"
# Width, heads and layers of a style's transformer by the name that AudioCraft gives them.
SCALES = {"xsmall": (256, 8, 4), "default": (512, 8, 8), "large": (1024, 16, 24), "none": (512, 8, 0)}
CODEC_OF_STYLE = "//pretrained/facebook/encodec_32khz"

_THEIRS, _OURS = "condition_provider.conditioners.", "conditioning.conditioners."
_PAIRS = [
    ("output_proj.*", "output_proj.*"),
    ("embed.weight", "embed.weight"),
    *((f"transformer.layers.#.{theirs}", f"transformer.layers.#.{ours}") for theirs, ours in LAYER_PAIRS),
    ("batch_norm.*", "batch_norm.*"),
]
_STYLE_PAIRS = [("embed.weight", "features.embed.weight"), ("embed.bias", "features.embed.bias")]
_STYLE_PAIRS += [("embed.#.weight", "features.embed.#.weight")]
_BOOKS = [("inited", "inited"), ("cluster_size", "count"), ("embed", "embed"), ("embed_avg", "embed_sum")]


def read_conditioning(
    config: Mapping[str, Any],
    *,
    text_encoder: str | Path | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Config:
    """The node of the conditioning that a config describes.

    text_encoder: local folder of the T5 (or the CLAP), in place of the name in the config.
    state: AudioCraft's weights, where they say what the config does not (the layers of a style's transformer).
    """
    fuser = config.get("fuser") or {}
    if fuser.get("cross_attention_pos_emb"):
        raise ValueError("conditions with positions of their own (cross_attention_pos_emb) are not supported")
    path = None if text_encoder is None else str(text_encoder)
    source = _Source(config, path, state or {})
    conditioners, names = {}, {}
    for name, entry in (config.get("conditioners") or {}).items():
        if not isinstance(entry, Mapping) or "model" not in entry:  # settings of all of them, such as `args`
            continue
        kind = entry["model"]
        if kind not in _READERS:
            raise ValueError(
                f"conditioner {name!r} is of the kind {kind!r}; known are {', '.join(map(repr, _READERS))}"
            )
        our_name, read = _READERS[kind]
        names[name] = our_name if our_name and name == SELF_WAV else name
        conditioners[names[name]] = read(dict(entry[kind]), source)
    return node_of(
        Conditioning,
        conditioners=conditioners,
        dim=config["transformer_lm"]["dim"],
        fuse={way: [names.get(name, name) for name in fuser[way]] for way in WAYS if fuser.get(way)},
        mask_padding=False,  # padding is attended to there; a model must be used as it was trained
        sum_into_prefix=bool(fuser.get("sum") and fuser.get("prepend")),
    )


def write_conditioning(node: Mapping[str, Any]) -> Config:
    """The sections `conditioners` and `fuser` of an `xp.cfg`, and dropouts of a training that is over."""
    arguments = arguments_of(node)
    ways: dict[str, list[str]] = {way: [] for way in WAYS}
    ways |= {way: list(names) for way, names in arguments["fuse"].items()}
    if arguments["mask_padding"] and ways["prepend"]:
        raise ValueError(
            f"this model was trained to ignore the padding of {ways['prepend']}, which are in front of the codes; "
            "AudioCraft has no such mask, and there it would be another model (train with mask_padding=false)"
        )
    if ways["sum"] and ways["prepend"] and not arguments["sum_into_prefix"]:
        raise ValueError(
            f"in AudioCraft {ways['sum']}, which is summed, would reach {ways['prepend']}, which is prepended, too "
            "(train with sum_into_prefix=true)"
        )
    waves = [name for name in arguments["conditioners"] if name in ("melody", "style")]
    if len(waves) > 1:
        raise ValueError(f"AudioCraft's models follow one waveform, this one {waves}")
    renamed = dict.fromkeys(waves, SELF_WAV)
    return {
        "conditioners": {
            renamed.get(name, name): _write_conditioner(name, entry)
            for name, entry in arguments["conditioners"].items()
        },
        "fuser": {
            "cross_attention_pos_emb": False,
            "cross_attention_pos_emb_scale": 1,
            **{way: [renamed.get(name, name) for name in names] for way, names in ways.items()},
        },
        "attribute_dropout": {},
    }


def read_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The conditioners' weights under our names.  ValueError for a key that has no place."""
    converted: dict[str, Tensor] = {}
    for name, own in _by_name(state, _THEIRS).items():
        is_style = any(
            key.startswith(("batch_norm.", "rvq.", "transformer.", "embed.0", "embed.bias")) for key in own
        )
        our_name = name if name != SELF_WAV else "style" if is_style else "melody"
        rules = both_ways([*(_STYLE_PAIRS if is_style else []), *_pairs(is_style), *_book_pairs(is_style)])[0]
        try:
            renamed = rename_keys(own, [*rules, (r"chroma\.spec\.window", "")])  # computed here
        except ValueError as error:
            raise ValueError(f"conditioner {name!r}: {error}") from error
        for key, value in stack_codebooks(renamed).items():
            converted[_placed(our_name, key)] = value
    return converted


def write_weights(weights: Mapping[str, Tensor], node: Mapping[str, Any]) -> dict[str, Tensor]:
    """The way back, of weights `conditioning.*` of the conditioning that `node` builds."""
    state: dict[str, Tensor] = {}
    plain = {
        re.sub(r"^conditioning\.output_proj\.(\w+)\.", rf"{_OURS}\1.output_proj.", key): value
        for key, value in weights.items()
    }
    for name, own in _by_name(plain, _OURS).items():
        entry = node["conditioners"][name]
        is_style = class_of(entry) is StyleConditioner
        pairs = [*(_STYLE_PAIRS if is_style else []), *_pairs(is_style), *_book_pairs(is_style)]
        renamed = rename_keys(unstack_codebooks(own), both_ways(pairs)[1])
        if class_of(entry) is ChromaConditioner:
            renamed["chroma.spec.window"] = torch.hann_window(2 ** arguments_of(entry)["radix2_exp"])
        their_name = SELF_WAV if name in ("melody", "style") else name
        state |= {f"{_THEIRS}{their_name}.{key}": value for key, value in renamed.items()}
    return state


def _pairs(is_style: bool) -> list[tuple[str, str]]:
    return [pair for pair in _PAIRS if not (is_style and pair[0] == "embed.weight")]


def _book_pairs(is_style: bool) -> list[tuple[str, str]]:
    place = "rvq" if is_style else "quantizer"
    return [
        (f"{place}.vq.layers.#._codebook.{theirs}", f"quantizer.codebooks.{ours}.#")
        for theirs, ours in _BOOKS
    ]


def _by_name(state: Mapping[str, Tensor], prefix: str) -> dict[str, dict[str, Tensor]]:
    """Weights of each conditioner, by its name."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name, _, rest = key.removeprefix(prefix).partition(".")
        if not key.startswith(prefix) or not rest:
            raise ValueError(f"key {key!r} is no weight of a conditioner")
        found.setdefault(name, {})[rest] = value
    return found


def _placed(name: str, key: str) -> str:
    if key.startswith("output_proj."):
        return f"conditioning.output_proj.{name}.{key.removeprefix('output_proj.')}"
    return f"{_OURS}{name}.{key}"


class _Source:
    """What a conditioner's node is read from, besides its own options."""

    def __init__(self, config: Mapping[str, Any], path: str | None, state: Mapping[str, Tensor]) -> None:
        self.config, self.path, self.state = config, path, state

    @property
    def segment_duration(self) -> float:
        dataset = self.config.get("dataset") or {}
        duration: float = dataset.get("segment_duration", self.config.get("segment_duration", 30.0))
        return duration

    @property
    def style_layers(self) -> int | None:
        pattern = re.escape(f"{_THEIRS}{SELF_WAV}.transformer.layers.") + r"(\d+)\..*"
        numbers = [int(match[1]) for key in self.state if (match := re.fullmatch(pattern, key))]
        return max(numbers) + 1 if numbers else None


def _read_t5(options: Config, source: _Source) -> Config:
    for name in ("finetune", "normalize_text"):
        if options.get(name):
            raise ValueError(f"a T5 that was trained along, or normalised text ({name}), is not supported")
    return node_of(
        T5Conditioner, name=options["name"], path=source.path, word_dropout=options.get("word_dropout", 0.0)
    )


def _read_lut(options: Config, source: _Source) -> Config:
    return node_of(
        HashedLabelConditioner,
        num_bins=options["n_bins"],
        dim=options["dim"],
        split_words=options.get("tokenizer") == "whitespace",
    )


def _read_chroma(options: Config, source: _Source) -> Config:
    return node_of(
        ChromaConditioner,
        sample_rate=options["sample_rate"],
        duration=source.segment_duration,
        num_chroma=options["n_chroma"],
        radix2_exp=options["radix2_exp"],
        argmax=options.get("argmax", True),
        silence_for_none=True,
        separator=node_of(StemSeparator),
    )


def _read_style(options: Config, source: _Source) -> Config:
    scale = options.get("transformer_scale", "default")
    if scale not in SCALES:
        raise ValueError(f"a style's transformer of the scale {scale!r}; known are {list(SCALES)}")
    dim, heads, layers = SCALES[scale]
    if options["model_name"] == "mert":
        features = node_of(MertFeatures, dim=dim)
    elif options["model_name"] == "encodec":
        features = node_of(
            CodecFeatures,
            dim=dim,
            num_codebooks=options.get("encodec_n_q", 4),
            # Its own codec is the model's; the embeddings say how many codes that has.
            cardinality=_rows(source, f"{_THEIRS}{SELF_WAV}.embed.0.weight"),
        )
    else:
        raise ValueError(f"a style heard by {options['model_name']!r}; known are 'mert' and 'encodec'")
    levels = options.get("n_q_out", 6)
    quantizer = None
    if levels:
        learning = node_of(
            AudioCraftLearning,
            kmeans_iterations=10,
            dead_code_threshold=options.get("rvq_threshold_ema_dead_code", 0.1),
        )
        quantizer = node_of(
            ResidualVectorQuantizer,
            dim=dim,
            num_codebooks=levels,
            cardinality=options.get("bins", 1024),
            dropout=options.get("q_dropout", True),
            learning=learning,
        )
    return node_of(
        StyleConditioner,
        features=features,
        quantizer=quantizer,
        sample_rate=options["sample_rate"],
        num_heads=heads,
        num_layers=source.style_layers or layers,
        levels=options.get("eval_q", 3),
        batch_norm=options.get("batch_norm", True),
        downsampling=options.get("ds_factor", 15),
        excerpt=options.get("length", 3.0),
        excerpt_range=options.get("varying_lengths", [1.5, 4.5]) or None,
        middle=options.get("use_middle_of_segment", False),
        code_frame=options.get("ds_rate_compression", 640) if options.get("compute_mask", True) else None,
    )


def _rows(source: _Source, key: str) -> int:
    """Rows of an embedding; without weights, the codes of the language model, whose codec it is."""
    if key in source.state:
        return source.state[key].shape[0]
    cardinality: int = source.config["transformer_lm"]["card"]
    return cardinality


def _read_clap(options: Config, source: _Source) -> Config:
    quantizer = None
    if options.get("quantize", True):
        quantizer = node_of(
            ResidualVectorQuantizer,
            dim=options["dim"],
            num_codebooks=options["n_q"],
            cardinality=options["bins"],
            learning=node_of(AudioCraftLearning, kmeans_iterations=options.get("kmeans_iters", 10)),
        )
    return node_of(
        ClapConditioner,
        dim=options["dim"],
        path=source.path,
        quantizer=quantizer,
        sample_rate=options["sample_rate"],
        window=options["max_audio_length"],
        stride=options["audio_stride"],
        normalize=options["normalize"],
        text_p=options["text_p"],
        droppable=False,
    )


_READERS: dict[str, tuple[str | None, Callable[[Config, _Source], Config]]] = {
    "t5": (None, _read_t5),
    "lut": (None, _read_lut),
    "chroma_stem": ("melody", _read_chroma),
    "style": ("style", _read_style),
    "clap": (None, _read_clap),
}


def _write_conditioner(name: str, node: Mapping[str, Any]) -> Config:
    kind = class_of(node)
    if kind not in _WRITERS:
        known = ", ".join(known.__name__ for known in _WRITERS)
        raise ValueError(f"AudioCraft has nothing like {kind.__name__} ({name!r}); it has {known}")
    model, write = _WRITERS[kind]
    return {"model": model, model: write(arguments_of(node))}


def _write_t5(options: Config) -> Config:
    return {
        "name": options["name"],
        "finetune": False,
        "word_dropout": options["word_dropout"],
        "normalize_text": False,
    }


def _write_lut(options: Config) -> Config:
    return {
        "n_bins": options["num_bins"],
        "dim": options["dim"],
        "tokenizer": "whitespace" if options["split_words"] else "noop",
    }


def _write_chroma(options: Config) -> Config:
    return {
        "sample_rate": options["sample_rate"],
        "n_chroma": options["num_chroma"],
        "radix2_exp": options["radix2_exp"],
        "argmax": options["argmax"],
        "match_len_on_eval": options["duration"] is not None,
        "eval_wavs": None,
        "n_eval_wavs": 0,
        "cache_path": None,
    }


def _write_style(options: Config) -> Config:
    features = arguments_of(options["features"])
    shape = (features["dim"], options["num_heads"], options["num_layers"])
    scale = next((name for name, known in SCALES.items() if known == shape), None)
    if scale is None:
        raise ValueError(f"AudioCraft has style transformers of {SCALES}, not of {shape}")
    quantizer = arguments_of(options["quantizer"]) if options["quantizer"] else None
    learning = arguments_of(quantizer["learning"]) if quantizer and quantizer["learning"] else {}
    by_codec = class_of(options["features"]) is CodecFeatures
    return {
        "model_name": "encodec" if by_codec else "mert",
        "transformer_scale": scale,
        "sample_rate": options["sample_rate"],
        "encodec_checkpoint": CODEC_OF_STYLE,
        "encodec_n_q": features["num_codebooks"] if by_codec else 3,
        "length": options["excerpt"],
        "ds_factor": options["downsampling"],
        "n_q_out": quantizer["num_codebooks"] if quantizer else 0,
        "eval_q": options["levels"],
        "q_dropout": quantizer["dropout"] if quantizer else False,
        "bins": quantizer["cardinality"] if quantizer else 1024,
        "varying_lengths": list(options["excerpt_range"] or []),
        "batch_norm": options["batch_norm"],
        "compute_mask": options["code_frame"] is not None,
        "num_codebooks_lm": 4,
        "ds_rate_compression": options["code_frame"] or 640,
        "use_middle_of_segment": options["middle"],
        "rvq_threshold_ema_dead_code": learning.get("dead_code_threshold", 0.1),
    }


def _write_clap(options: Config) -> Config:
    quantizer = arguments_of(options["quantizer"]) if options["quantizer"] else None
    learning = arguments_of(quantizer["learning"]) if quantizer and quantizer["learning"] else {}
    return {
        "checkpoint": "//reference/clap/music_audioset_epoch_15_esc_90.14.pt",
        "model_arch": "HTSAT-base",
        "enable_fusion": False,
        "sample_rate": options["sample_rate"],
        "max_audio_length": options["window"],
        "audio_stride": options["stride"],
        "dim": options["dim"],
        "attribute": "description",
        "normalize": options["normalize"],
        "quantize": quantizer is not None,
        "n_q": quantizer["num_codebooks"] if quantizer else 12,
        "bins": quantizer["cardinality"] if quantizer else 1024,
        "kmeans_iters": learning.get("kmeans_iterations", 50),
        "text_p": options["text_p"],
        "cache_path": None,
    }


_WRITERS: dict[Any, tuple[str, Callable[[Config], Config]]] = {
    T5Conditioner: ("t5", _write_t5),
    HashedLabelConditioner: ("lut", _write_lut),
    ChromaConditioner: ("chroma_stem", _write_chroma),
    StyleConditioner: ("style", _write_style),
    ClapConditioner: ("clap", _write_clap),
}
