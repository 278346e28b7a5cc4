"""Which shards of a plan are done: a small file for each, written after its tar and index are in their place.

<out's parent>/.<out>.<plan's digest>.partial/
  dataset/<split>/000012.tar, 000012.index.json      what becomes <out>
  receipts/<split>.000012.json                       that this shard is whole, and what is in it
  work/<split>.000012.*/                             a shard that is being written
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning_audio.atomic import write_text
from sharding.schema import ShardInfo, index_path
from sharding.writing.plan import PlannedShard
from sharding.writing.prepare import Skipped
from sharding.writing.shard import WrittenShard, file_hash


@dataclass(frozen=True)
class Partial:
    """The folder of a dataset that is being written, by one process or by several at once."""

    folder: Path
    digest: str

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    def path(self, shard: PlannedShard) -> Path:
        """Where its tar comes to lie."""
        return self.dataset / shard.split / shard.name

    def receipt(self, shard: PlannedShard) -> WrittenShard | None:
        """What is in the shard; None where it is not done, or by another plan, or not as it was left."""
        try:
            values = json.loads(self._receipt_path(shard).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if values["plan"] != self.digest:
            return None
        info = ShardInfo(**values["info"]) if values["info"] else None
        if info and not self._is_there(self.path(shard), info):
            return None
        return WrittenShard(
            info,
            Counter({int(rate): count for rate, count in values["sample_rates"].items()}),
            Counter({int(channels): count for channels, count in values["channels"].items()}),
            [Skipped(name, reason) for name, reason in values["skipped"]],
            values["num_clipped"],
        )

    def sign(self, shard: PlannedShard, written: WrittenShard) -> None:
        """Says that the shard is done."""
        values = {
            "plan": self.digest,
            "info": asdict(written.info) if written.info else None,
            "sample_rates": written.sample_rates,
            "channels": written.channels,
            "skipped": [[skip.name, skip.reason] for skip in written.skipped],
            "num_clipped": written.num_clipped,
        }
        write_text(self._receipt_path(shard), json.dumps(values))

    @contextmanager
    def work(self, shard: PlannedShard) -> Iterator[Path]:
        """A folder to write the shard in. What a killed life left of it goes; a twin that is still alive fails."""
        name = f"{shard.split}.{Path(shard.name).stem}."
        (self.folder / "work").mkdir(parents=True, exist_ok=True)
        for stale in (self.folder / "work").glob(f"{name}*"):
            shutil.rmtree(stale, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=self.folder / "work", prefix=name))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def take(self, made: Path, shard: PlannedShard) -> None:
        """A tar that is done, and its index, come to lie where they belong."""
        path = self.path(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        index_path(made).replace(index_path(path))
        made.replace(path)

    def _receipt_path(self, shard: PlannedShard) -> Path:
        return self.folder / "receipts" / f"{shard.split}.{Path(shard.name).stem}.json"

    @staticmethod
    def _is_there(path: Path, info: ShardInfo) -> bool:
        try:
            return path.stat().st_size == info.num_bytes and file_hash(index_path(path)) == info.index_sha256
        except FileNotFoundError:
            return False
