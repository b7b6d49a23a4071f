"""Fixtures that every test may use."""

import os

# Tests compute on matrices so small that most of it would be a thread's busy wait for the others, and where another
# process wants the core too, each such wait lasts that one's turn. Read once, when torch is loaded; no figure changes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from browser import browser as browser
from small_ablation import write_ablation
from small_study import Study, make_study

from mmser import products


@pytest.fixture(scope="session")
def speech_data() -> Path:
    """The folder of real recordings, for tests marked ``data``."""
    folder = Path(os.environ.get("MMSER_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real recordings in {folder}: set MMSER_TEST_DATA")
    return folder


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def one_thread(threads: Callable[[int], None]) -> None:
    """Training happens in this process, where it can be watched, and not in one for each core."""
    threads(1)


@pytest.fixture(
    params=[
        "torch",
        pytest.param(
            "onednn",
            marks=pytest.mark.skipif(
                not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"),
                reason="this torch has no oneDNN",
            ),
        ),
    ]
)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Products by one library, whatever the machine and however small they are."""
    name = str(request.param)
    monkeypatch.setattr(products, "by_onednn", lambda: name == "onednn")
    monkeypatch.setattr(products, "SMALLEST", 0)
    return name


@pytest.fixture(scope="session")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an ablation, with its report."""
    from mmser.report import write_report

    folder = write_ablation(tmp_path_factory.mktemp("report"))
    write_report(folder)
    return folder


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two run folders with all that they were made from."""
    return make_study(tmp_path_factory.mktemp("study"))
