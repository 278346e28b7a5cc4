from __future__ import annotations

import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.report import dataset_page, main
from lightning_audio import audio
from sharding.checking.statistics import AttributeStatistics, SplitStatistics
from sharding.sources import find_clips
from sharding.writing.write import write_shards


class Page(HTMLParser):
    """The texts and the tags of a page; every tag that is opened is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: Counter[str] = Counter()
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags[tag] += 1
        if tag not in ("meta", "link", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def split(num_clips: int, **more: object) -> SplitStatistics:
    values = {
        "num_clips": num_clips,
        "num_shards": 1,
        "durations": [np.linspace(1, 9, num_clips, dtype=np.float32)],
        "sample_rates": Counter({32000: num_clips}),
        "channels": Counter({1: num_clips}),
        "attributes": {
            "genre": AttributeStatistics(num_clips, Counter({"<script>jazz": num_clips - 1, "rock": 1})),
            "description": AttributeStatistics(num_clips - 1, Counter(), complete=False),
        },
        "num_words": Counter({5: num_clips - 1}),
        "loudness": [-20.0 - i for i in range(num_clips // 2)],
        "peaks": [-1.0] * (num_clips // 2),
    }
    return SplitStatistics(**{**values, **more})  # type: ignore[arg-type]


def test_a_page_says_what_the_numbers_are() -> None:
    splits = {
        "train": split(80, sample_rates=Counter({32000: 60, 44100: 20}), num_skipped=3, num_unreadable=2),
        "test": split(10),
    }
    page = Page(dataset_page("my & data", splits))
    text = "\n".join(page.texts).replace("\N{NO-BREAK SPACE}", " ")
    for said in (
        "my & data",
        "90",
        "32000 Hz (75.0 %), 44100 Hz (25.0 %)",
        "train: 2 clips could not be read; lightning-audio check names them",
        "train: 3 clips were left out when it was made",
        "train: 1 of 80 clips have no description",
        "Measured on 40 of 80 of train, 5 of 10 of test.",
        "<script>jazz",
        "train 98.8 % · test 90.0 %",
    ):
        assert said in text, said
    assert page.tags["script"] == 1  # ours alone
    assert page.tags["polygon"] == 8  # two splits in four histograms
    assert "Codebooks" not in text


def test_a_page_of_codes_and_of_nothing() -> None:
    counts = np.zeros((2, 16), np.int64)
    counts[0] = 5
    counts[1, 3] = 80
    page = Page(
        dataset_page(
            "codes", {"train": split(4, code_counts=counts, num_code_clips=4, loudness=[], peaks=[])}
        )
    )
    text = "\n".join(page.texts)
    assert "16 of 16" in text
    assert "1 of 16" in text
    assert "Of 4 clips of all splits." in text
    assert "0" in Page(dataset_page("nothing", {"train": SplitStatistics()})).texts


def test_from_shards_to_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        audio.write(tmp_path / f"in/{i}.wav", torch.rand(1, 8000) - 0.5, 16000)
        (tmp_path / f"in/{i}.json").write_text(json.dumps({"description": f"noise {i}", "genre": "noise"}))
    write_shards(find_clips(tmp_path / "in"), tmp_path / "shards", fractions={"train": 1.0})
    main([str(tmp_path / "shards"), "--workers", "1"])
    assert f"written: {tmp_path / 'shards.html'}" in capsys.readouterr().out
    assert "Measured on all of 3 of train." in Page((tmp_path / "shards.html").read_text()).texts
    main([str(tmp_path / "shards"), "--workers", "1", "--clips", "1", "--out", str(tmp_path / "page.html")])
    assert "Measured on 1 of 3 of train." in Page((tmp_path / "page.html").read_text()).texts
