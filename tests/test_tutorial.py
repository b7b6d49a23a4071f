"""docs/tutorial.md, run as it stands, on part of its corpus and for few epochs: lines of the kinds that are shown."""

import re
from pathlib import Path

import pytest
from docs_pages import DOCS, calls, sessions
from small_corpus import mmser

from mmser.demo.corpus import speak_corpus

KEPT = re.compile(r"spk[345]_[a-z]+_0[358],")
"""Of ten utterances an emotion and speaker: one told by the words, one by the voice, one by both."""


def kind(line: str) -> str:
    """A line without its figures, and without what follows from how many utterances there are."""
    return " ".join(re.sub(r"[\d.,%()+-]+(?: [kMG]B)?", " ", line).split())


def thin(manifest: Path) -> None:
    header, *rows = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join([header, *(row for row in rows if KEPT.match(row))]))


@pytest.mark.slow
def test_the_tutorial_runs_and_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = []
    for line, shown in sessions(DOCS / "tutorial.md"):
        (call, *_) = calls(line)
        if call[0] == "python":
            assert call[1:] == ["-c", "from mmser.demo.corpus import speak_corpus; speak_corpus('corpus')"]
            speak_corpus(Path("corpus"))
        elif call[0] == "head":
            printed = Path(call[2]).read_text().splitlines()
            assert [shown[0], len(shown)] == [printed[0], 3]
        elif call[0] == "mmser" and shown:  # the last commands ask for a corpus that no one may pass on
            if call[1] == "extract":
                thin(Path("corpus/manifest.csv"))
            result = mmser(*call[1:], *(("--epochs", 2) if call[1] == "train-head" else ()))
            ran.append(call[1])
            printed = {kind(one) for one in (result.stdout + result.stderr).splitlines()}
            missing = [one for one in shown if kind(one) not in printed]
            assert not missing, f"{line}: {missing} is not among what was printed:\n{result.stdout}{result.stderr}"
    assert ran == ["doctor", "extract", "cache", *["train-head"] * 3, "runs", "runs", "cache"]
