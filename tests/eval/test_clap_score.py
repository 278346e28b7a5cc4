"""The CLAP score is a mean cosine."""

from __future__ import annotations

import pytest
import torch

from eval.clap_score import ClapScore


def test_mean_cosine_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    audio, text = torch.randn(2, 5, 8, generator=generator)
    metric = ClapScore()
    metric.update(audio[:2], text[:2], ["a", "b"])
    metric.update(4 * audio[2:], text[2:], ["c", "d", "e"])
    cosine = [
        float(a.double() @ t.double() / (a.double().norm() * t.double().norm()))
        for a, t in zip(audio, text, strict=True)
    ]
    assert float(metric.compute()) == pytest.approx(sum(cosine) / 5, rel=1e-9)
    assert metric.scores_of(["e", "a"]).tolist() == pytest.approx([cosine[4], cosine[0]], rel=1e-9)


def test_the_text_itself_and_its_opposite() -> None:
    text = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    for sign in (1.0, -1.0):
        metric = ClapScore()
        metric.update(sign * text, text)
        assert float(metric.compute()) == pytest.approx(sign, rel=1e-9)


def test_embeddings_without_a_direction_are_counted() -> None:
    metric = ClapScore()
    audio = torch.ones(3, 4)
    audio[1], audio[2, 0] = 0.0, torch.nan
    metric.update(audio, torch.ones(3, 4))
    assert int(metric.num_excluded) == 2
    assert float(metric.compute()) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"\(3, 4\), text embeddings \(3, 5\)"):
        metric.update(audio, torch.ones(3, 5))
