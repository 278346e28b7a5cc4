"""The numbers kept with the tests are those of the whole set, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
WHOLE = TESTS.parents[1] / "shared" / "reference"
OWN = ("README.md", "audiocraft_mixing.pt")


@pytest.mark.skipif(not WHOLE.is_dir(), reason="needs shared/reference beside the project, which is absent")
def test_the_copies_are_the_originals() -> None:
    folder = TESTS / "reference"
    copies = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(copies) > 30
    for name in copies:
        if str(name) not in OWN:
            assert (folder / name).read_bytes() == (WHOLE / name).read_bytes(), name
