"""Miniature trees of collections: the layouts read names and tables, so a file of audio may hold anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Plant = Callable[[dict[str, str]], Path]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Makes a tree of {name: text} and gives its root."""

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            file = tmp_path / "tree" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode())
        return tmp_path / "tree"

    return make
