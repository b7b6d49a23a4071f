"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
from browser import browser as browser


@pytest.fixture(scope="session")
def speech_data() -> Path:
    """The folder of real recordings, for tests marked ``data``."""
    folder = Path(os.environ.get("MMSER_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real recordings in {folder}: set MMSER_TEST_DATA")
    return folder
