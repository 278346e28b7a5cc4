from __future__ import annotations

import pickle
from itertools import islice
from pathlib import Path

import pytest
import torch

from datamodules.index import open_split
from datamodules.shards import ShardReader
from datamodules.tokens import TokenDataModule


def test_segments_of_codes(code_shards: Path) -> None:
    module = TokenDataModule(code_shards, batch_size=6, segment_duration=0.3, codec_hash="the-hash")
    module.setup("fit")
    starts = set()
    for batch in module.train_dataloader():
        assert batch.codes is not None
        assert batch.codes.shape == (6, 2, 30)
        assert batch.codes.dtype == torch.int64
        assert batch.num_frames is not None
        assert batch.num_frames.tolist() == [30] * 6
        assert batch.sample_rate == 8000
        places = batch.codes[:, 1]  # codebook 1 counts the frames
        assert torch.equal(places, places[:, :1] + torch.arange(30))
        starts |= set(places[:, 0].tolist())
    assert len(starts) > 5


def test_whole_clips_are_padded_to_the_longest(code_shards: Path) -> None:
    module = TokenDataModule(code_shards, batch_size=4, eval_batch_size=5)
    (batch,) = list(module.val_dataloader())
    assert batch.num_frames.tolist() == [-(-(4000 + 100 * int(key[-2:])) // 80) for key in batch.keys]
    assert batch.codes.shape == (5, 2, int(batch.num_frames.max()))


@pytest.mark.parametrize("cache_bytes", [0, 3000, 1 << 30])
def test_the_cache_changes_nothing(code_shards: Path, cache_bytes: int) -> None:
    plain = TokenDataModule(code_shards, batch_size=4, num_frames=20, cache_bytes=0).train_dataloader()
    cached = TokenDataModule(
        code_shards, batch_size=4, num_frames=20, cache_bytes=cache_bytes
    ).train_dataloader()
    for _ in range(3):
        for one, other in zip(plain, cached, strict=True):
            assert one.keys == other.keys
            assert torch.equal(one.codes, other.codes)  # type: ignore[arg-type]


def test_what_is_known_before_any_work(code_shards: Path) -> None:
    module = TokenDataModule(code_shards, batch_size=4, segment_duration=0.5)
    codes = module.codes_info()
    assert (codes.codec_hash, codes.num_codebooks, codes.cardinality, codes.frame_rate) == (
        "the-hash",
        2,
        100,
        100.0,
    )
    assert module.num_frames == 50


def test_what_does_not_fit_is_refused(audio_shards: Path, code_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="made by codec the-hash, the model's is another"):
        TokenDataModule(code_shards, batch_size=4, codec_hash="another").setup("fit")
    with pytest.raises(ValueError, match="holds audio, no codes"):
        TokenDataModule(audio_shards, batch_size=4).setup("fit")
    with pytest.raises(ValueError, match=r"20 frames or 1\.0 s, not both"):
        TokenDataModule(code_shards, batch_size=4, num_frames=20, segment_duration=1.0)
    with pytest.raises(FileNotFoundError, match="no dataset in"):
        TokenDataModule(tmp_path, batch_size=4).setup("fit")
    with pytest.raises(FileNotFoundError, match="no split 'test', only train, valid"):
        open_split(code_shards, "test")


def test_a_reader_keeps_few_files_open_and_pickles(code_shards: Path) -> None:
    index = open_split(code_shards, "train")
    reader = ShardReader(index.folder, max_open=2)
    for number, shard in enumerate(index.info.shards):
        assert reader.attributes(shard, index.shard(number), 0)["number"] >= 0
        assert len(reader._files) <= 2
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.read(index.info.shards[0], index.shard(0), 0, "json")


def test_a_long_part_is_read_piece_by_piece(code_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.shards._WHOLE", 8)
    index = open_split(code_shards, "train")
    reader, shard, place = ShardReader(index.folder), index.info.shards[0], index.shard(0)
    whole = reader.read(shard, place, 1, "codes.npy")
    with reader.open(shard, place, 1, "codes.npy") as file:
        assert file.read() == whole
        assert file.seek(-10, 2) == len(whole) - 10
        assert file.read(100) == whole[-10:]
        assert file.seek(5) == 5
        assert file.read(7) == whole[5:12]


def test_spans_outside_the_tar_are_refused(code_shards: Path) -> None:
    index = open_split(code_shards, "train")
    shard, place = index.info.shards[0], index.shard(0)
    for offset, size, says in ((-5, 10, "lies at -5"), (0, 1 << 30, "lies at 0"), (0, 1 << 40, "more than")):
        place.parts["json"][0] = (offset, size)
        with pytest.raises(ValueError, match=says):
            ShardReader(index.folder).read(shard, place, 0, "json")


def test_an_endless_stream_is_not_read_ahead_for_ever(code_shards: Path) -> None:
    loader = TokenDataModule(code_shards, batch_size=4, num_workers=1, epoch_batches=3).train_dataloader()
    assert len(loader) == 3
    assert len(list(loader)) == 3
    assert loader.position == 12
    assert len(list(islice(loader, 2))) == 2
    assert loader.position == 20
