"""Which spans are masked again: against a search written plainly, one item after the other."""

from __future__ import annotations

import pytest
import torch

from lightning_audio.lm.masked.arrangement import (
    ARRANGEMENTS,
    KEPT,
    OverlappingSpans,
    doubt_of_best,
    doubt_of_product,
)


def searched_plainly(scores: list[float], span: int, wanted: int) -> set[int]:
    """The frames of as many of the worst spans as halving finds to cover about `wanted`."""
    sums = [sum(scores[start : start + span]) for start in range(len(scores) - span + 1)]
    worst_first = torch.tensor(sums).argsort(descending=True).tolist()  # among ties, torch's own order

    def covered(count: int) -> set[int]:
        return {start + i for start in worst_first[:count] for i in range(span)}

    wanted = max(wanted, span)
    low, high = wanted // span, wanted - span + 1
    middle = result = round(0.5 * (low + high))
    while low < middle < high:
        result = middle
        if len(covered(middle)) > wanted:
            high = middle
        else:
            low = middle
        middle = round(0.5 * (low + high))
    return covered(result)


@pytest.mark.parametrize("span", [2, 3, 5])
def test_overlapping_spans_are_those_of_the_plain_search(span: int) -> None:
    generator = torch.Generator().manual_seed(span)
    # Multiples of 1/8, so that sums are exact in any order and ties are many.
    scores = torch.randint(40, (7, 61), generator=generator) / 8.0
    scores[3] = 0.0
    scores[4, :20] = KEPT
    for wanted in (1, span, 2 * span, 17, 30, 55, 61):
        mask = OverlappingSpans(span).most_doubtful(scores, wanted)
        for row in range(7):
            expected = searched_plainly(scores[row].tolist(), span, wanted)
            assert set(mask[row].nonzero().flatten().tolist()) == expected


def test_separate_spans_are_masked_and_scored_as_a_whole() -> None:
    spans = ARRANGEMENTS["nonoverlap"](3, "max")
    assert spans.trimmed(11) == 9
    assert spans.num_units(9, prompt_frames=4) == 2
    assert spans.first_scores(1, 9, prompt_frames=4).tolist() == [[KEPT, 0, 0]]
    mask = spans.most_doubtful(torch.tensor([[0.2, 0.9, 0.5]]), 2)
    assert mask.tolist() == [[False] * 3 + [True] * 6]
    probabilities = torch.tensor([[0.5, 0.1, 0.2, 0.3, 0.4, 0.9, 0.6, 0.6, 0.6]])
    unknown = torch.tensor([[False] * 3 + [False, True, True] + [True] * 3])
    torch.testing.assert_close(spans.scores(probabilities, unknown), torch.tensor([[KEPT, 0.1, 0.4]]))


def test_scores_of_spans() -> None:
    probabilities = torch.tensor([[[0.5, 0.25], [1.0, 0.125]]])
    torch.testing.assert_close(doubt_of_best(probabilities), torch.tensor([[0.5, 0.0]]))
    logs = torch.tensor([[8.0, 8.0]]).log()
    torch.testing.assert_close(doubt_of_product(probabilities), logs)


def test_spans_of_one_frame_are_frames_in_both_arrangements() -> None:
    scores = torch.tensor([[0.3, 0.1, 0.2]])
    for make in ARRANGEMENTS.values():
        assert make(1, "max").most_doubtful(scores, 2).tolist() == [[True, False, True]]
