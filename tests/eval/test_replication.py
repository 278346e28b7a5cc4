"""The replication check finds a planted copy, and says where it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.page.listening import Sound
from eval.replication import (
    CodeIndex,
    NearestByCodes,
    NearestByEmbedding,
    nearest_by_embedding,
    replication_listening,
)


def _codes(seed: int, length: int = 300, cardinality: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(cardinality, size=length)


def _brute_force(own: np.ndarray, other: np.ndarray) -> int:
    """The longest common stretch, by the table of all pairs of places."""
    lengths = np.zeros((len(own) + 1, len(other) + 1), dtype=int)
    for i, a in enumerate(own):
        for j, b in enumerate(other):
            lengths[i + 1, j + 1] = lengths[i, j] + 1 if a == b else 0
    return int(lengths.max())


def test_a_planted_copy_is_found_where_it_is() -> None:
    generations = [(f"g{i}", _codes(i)) for i in range(4)]
    training = {f"t{i}": _codes(100 + i) for i in range(20)}
    training["t7"][40:140] = generations[2][1][150:250]
    index = CodeIndex(generations)
    for key, codes in training.items():
        index.look_in(key, codes)
    found = index.nearest()
    assert found[2] == NearestByCodes("g2", "t7", 93 / 293, 100, 150, 40)
    assert [match.training for match in found if match.generation != "g2"] == [None] * 3


@pytest.mark.parametrize("seed", range(5))
def test_the_longest_stretch_is_the_longest_there_is(seed: int) -> None:
    # Three codes only: stretches are many, and overlap.
    own, other = _codes(seed, 80, 3), _codes(50 + seed, 90, 3)
    index = CodeIndex([("g", own)], length=3)
    index.look_in("t", other)
    (match,) = index.nearest()
    assert match.longest == _brute_force(own, other)
    stretch = slice(match.start, match.start + match.longest)
    there = slice(match.training_start, match.training_start + match.longest)
    assert (own[stretch] == other[there]).all()


def test_the_share_is_that_of_all_n_grams() -> None:
    own = _codes(0, 100)
    index = CodeIndex([("g", own)], length=5)
    index.look_in("all", own[::-1].copy())
    index.look_in("a copy", np.concatenate([_codes(9, 30), own]))
    (match,) = index.nearest()
    assert (match.training, match.share, match.longest, match.training_start) == ("a copy", 1.0, 100, 30)


def test_silence_is_nobodys() -> None:
    silent = np.full(500, 7)
    index = CodeIndex([("quiet", silent), ("short", _codes(0, 4))])
    index.look_in("t", silent)
    assert [match.training for match in index.nearest()] == [None, None]


def test_equal_hashes_of_unequal_n_grams_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "eval.replication._hashes", lambda codes, length: np.zeros(max(0, len(codes) - length + 1), np.uint64)
    )
    own, other = _codes(0, 60), _codes(1, 60)
    other[20:35] = own[10:25]
    index = CodeIndex([("g", own)])
    index.look_in("t", _codes(2, 60))
    assert index.nearest()[0].training is None
    index.look_in("u", other)
    assert index.nearest()[0] == NearestByCodes("g", "u", 8 / 53, 15, 10, 20)


@pytest.mark.parametrize("block", [1, 3, 4096])
def test_the_nearest_embedding_is_that_of_all_cosines(block: int) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, rows = torch.randn(5, 8, generator=generator), torch.randn(40, 8, generator=generator)
    rows[13] = 3.0 * queries[2]  # a planted copy, louder
    rows[20] = torch.nan
    batches = [([f"t{i}" for i in range(s, s + 8)], rows[s : s + 8]) for s in range(0, 40, 8)]
    found = nearest_by_embedding([f"g{i}" for i in range(5)], queries, batches, block=block)
    cosines = torch.nn.functional.cosine_similarity(queries[:, None], rows[None], dim=2).nan_to_num(-2.0)
    for i, match in enumerate(found):
        assert match.training == f"t{int(cosines[i].argmax())}"
        assert match.cosine == pytest.approx(float(cosines[i].max()), abs=1e-6)
    assert found[2].training == "t13"


def test_of_equals_the_first_counts_whatever_the_batches() -> None:
    row = torch.ones(1, 4)
    rows = torch.ones(6, 4)
    for size in (1, 2, 6):
        batches = [([f"t{i}" for i in range(s, s + size)], rows[s : s + size]) for s in range(0, 6, size)]
        assert nearest_by_embedding(["g"], row, batches)[0].training == "t0"


def test_the_page_shows_the_closest_first_and_both_sounds() -> None:
    codes = [
        NearestByCodes("g0", "t0", 0.1, 20, 5, 10),
        NearestByCodes("g1", "t1", 0.9, 200, 50, 100),
        NearestByCodes("g2", None, 0.0, 0, 0, 0),
    ]
    near = [NearestByEmbedding("g0", "t3", 0.5), NearestByEmbedding("g2", "t4", 0.99)]
    section = replication_listening(
        near,
        codes,
        generated=lambda key: Sound(key, torch.zeros(1, 8), 8000),
        training=lambda key: Sound(key, torch.ones(1, 8), 8000),
        frame_rate=50.0,
        num_shown=4,
    )
    assert [clip.title for clip in section.clips] == ["g1 / t1", "g0 / t0", "g2 / t4", "g0 / t3"]
    assert section.clips[0].facts[0].value == "4.00 s, from 1.0 s, there from 2.0 s"
    assert [sound.label for sound in section.clips[0].sounds] == ["g1", "t1"]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="n-grams are of 1 frames"):
        CodeIndex([("g", _codes(0))], length=1)
    with pytest.raises(ValueError, match="no generations"):
        CodeIndex([])
    with pytest.raises(ValueError, match=r"codebook of g is \(2, 3\)"):
        CodeIndex([("g", np.zeros((2, 3)))])
    rows = torch.ones(2, 4)
    with pytest.raises(ValueError, match="1 generations have 2 embeddings"):
        nearest_by_embedding(["g"], rows, [])
    with pytest.raises(ValueError, match="1 of 2 generations have no usable embedding, h first"):
        nearest_by_embedding(["g", "h"], torch.stack([rows[0], 0 * rows[0]]), [])
    with pytest.raises(ValueError, match=r"\(2, 3\), want \[2, 4\]"):
        nearest_by_embedding(["g", "h"], rows, [(["a", "b"], torch.ones(2, 3))])
    with pytest.raises(ValueError, match="no training clip"):
        nearest_by_embedding(["g", "h"], rows, [(["a"], torch.zeros(1, 4))])
