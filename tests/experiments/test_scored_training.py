"""The callbacks of a scored training compose with the experiments and can be made."""

from __future__ import annotations

import pytest
from hydra.utils import instantiate

from eval.callback import CodebookPanel, GenerateAndScore
from experiments.compose import compose_config, resolve


@pytest.mark.parametrize(
    "experiment", ["musicgen_small", "audiogen_medium", "magnet_small_10secs", "quickstart_musicgen"]
)
def test_scored(experiment: str) -> None:
    config = compose_config(
        "train",
        [f"experiment={experiment}", "callbacks=scored", "data.path=x", "codec_source=y", "run_dir=z"],
    )
    resolve(config)
    assert {"last", "best", "learning_rate"} < set(config.callbacks)
    score = instantiate(config.callbacks.score, _convert_="all")
    assert isinstance(score, GenerateAndScore)
    monitored = config.callbacks.best_score.monitor.removeprefix("score/")
    assert monitored in score.scores
    assert score.scores["log_mel"].metric(4).dim == 4  # type: ignore[attr-defined]
    assert isinstance(instantiate(config.callbacks.codebooks, _convert_="all"), CodebookPanel)
