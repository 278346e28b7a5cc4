"""A segment that the masks of a MAGNeT are not made for is refused before any work."""

from __future__ import annotations

import pytest

from experiments.compose import compose_config, resolve
from experiments.training.coherence import check_coherence

MAGNETS = ["magnet_small_10secs", "magnet_medium_30secs", "audio_magnet_small"]


def check(experiment: str, *overrides: str) -> None:
    given = [f"experiment={experiment}", "data.path=/nowhere", "codec_source=/codec", *overrides]
    check_coherence(resolve(compose_config("train", given)))


@pytest.mark.parametrize("experiment", MAGNETS)
def test_the_published_segments_fit(experiment: str) -> None:
    with pytest.raises(FileNotFoundError, match="/nowhere"):  # what comes after: there are no shards
        check(experiment)


def test_another_segment_is_refused_with_both_numbers() -> None:
    message = "segment_duration 15.0 s is 750 frames of the codec, .* are for lm.segment_frames 500"
    with pytest.raises(ValueError, match=message):
        check("magnet_small_10secs", "data.segment_duration=15.0")
    with pytest.raises(FileNotFoundError):
        check("magnet_small_10secs", "data.segment_duration=15.0", "lm.segment_frames=750")
