"""A card in W&B: its values, a table of its clips to listen to, and the card itself as an artifact."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.card import Card
from eval.clip_table import CLIPS_FILE, ClipRow

PAGE = "report.html"


def log_card(
    run: Any, card: Card, folder: str | Path, clips: Sequence[ClipRow] = (), *, num_sounds: int = 24
) -> None:
    """Give a card to a W&B run.

    run: of `wandb.init`, or a Lightning `WandbLogger`'s `experiment`; one in offline mode needs no key, and
        `wandb sync` sends it later.
    folder: of the card, with `card.json`, and where there are such, the table of clips, the page and the audio.
    clips: of the table, the first `num_sounds` with their audio.
    """
    import wandb

    folder = Path(folder)
    values: dict[str, Any] = {}
    for m in card.measurements:
        name = f"{card.protocol}/{m.name}"
        values[name] = m.value
        if m.interval is not None:
            values |= {f"{name} (low)": m.interval.low, f"{name} (high)": m.interval.high}
    if clips:
        values[f"{card.protocol}/clips"] = _table(wandb, folder, clips, num_sounds)
    run.log(values)
    artifact = wandb.Artifact(
        name=_artifact_name(card),
        type="card",
        metadata={"protocol": card.protocol, "model": card.model, "model_hash": card.model_hash},
    )
    for name in ("card.json", CLIPS_FILE, PAGE):
        if (folder / name).exists():
            artifact.add_file(str(folder / name), name=name)
    run.log_artifact(artifact)


def _table(wandb: Any, folder: Path, clips: Sequence[ClipRow], num_sounds: int) -> Any:
    scores = list(dict.fromkeys(name for clip in clips for name in clip.scores))
    table = wandb.Table(columns=["clip", "prompt", "audio", *scores])
    for place, clip in enumerate(clips):
        path = None if clip.audio is None else folder / clip.audio
        is_heard = path is not None and path.exists() and place < num_sounds
        values = [clip.scores.get(name, math.nan) for name in scores]
        table.add_data(
            clip.key,
            clip.prompt,
            wandb.Audio(str(path), caption=clip.prompt) if is_heard else None,
            *[value if math.isfinite(value) else None for value in values],
        )
    return table


def _artifact_name(card: Card) -> str:
    """Letters, digits, dots, dashes and underscores, all that W&B allows; unlike for unlike models."""
    plain = "".join(
        c if c.isalnum() and c.isascii() else "-" for c in f"{card.protocol}-{Path(card.model).name}"
    )
    digest = hashlib.sha256(f"{card.model} {card.model_hash}".encode()).hexdigest()[:8]
    return f"card-{plain[:90]}-{digest}"
