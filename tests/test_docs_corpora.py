"""The pages of the corpora: one each, whose counts are those that ``mmser manifest`` and ``mmser doctor`` hold up."""

import re

import pytest
from docs_pages import DOCS, calls, sessions

from mmser.corpora import CORPORA
from mmser.corpora.corpus import Published


def counts_table(corpus: str) -> str:
    """The table of what there should be, from the code."""
    rows = ["| label set | utterances | of which |", "|---|---|---|"]
    for name, label_set in CORPORA[corpus].label_sets.items():
        for published in label_set.published:
            release = f" ({published.release})" if published.release else ""
            rows.append(f"| `{name}` | {published.total:,}{release} | {_parts(published)} |")
        if not label_set.published:
            rows.append(f"| `{name}` | not known | |")
    return "\n".join(rows).replace("|  |", "| |")


def _parts(published: Published) -> str:
    return "; ".join(
        f"{column}: {', '.join(f'{value} {count:,}' for value, count in counts.items())}"
        for column, counts in published.counts.items()
    )


def test_every_corpus_has_a_page_and_every_page_a_corpus() -> None:
    assert {path.stem for path in (DOCS / "corpora").glob("*.md")} == set(CORPORA)


@pytest.mark.parametrize("corpus", CORPORA)
def test_counts_are_those_of_the_code(corpus: str) -> None:
    table = counts_table(corpus)
    assert table in (DOCS / "corpora" / f"{corpus}.md").read_text(encoding="utf-8"), f"expected:\n{table}"


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_page_shows_the_three_commands(corpus: str) -> None:
    shown = [call for line, _ in sessions(DOCS / "corpora" / f"{corpus}.md") for call in calls(line)]
    first = [call[1] for call in shown[:3]]
    two_speakers = corpus == "tess"
    assert first == (["manifest", "extract"] if two_speakers else ["manifest", "extract", "train-head"])
    assert shown[0][2] == corpus
    # each command takes what the one before it wrote
    assert shown[1][2] == shown[0][shown[0].index("--out") + 1]
    if not two_speakers:
        assert shown[2][2] == shown[1][shown[1].index("--cache") + 1]
    if preset := CORPORA[corpus].protocol:
        assert shown[2][3:5] == ["--protocol", preset]


_SOURCE = re.compile(r"arXiv \d{4}\.\d{5}|https://[^)\s]+|\b(?:19|20)\d\d\b")
"""What a figure was read in: an arXiv id, a page, or a paper by its year."""


@pytest.mark.parametrize("corpus", CORPORA.keys() - {"audformat"})
def test_published_figures_name_their_source_and_protocol(corpus: str) -> None:
    page = (DOCS / "corpora" / f"{corpus}.md").read_text(encoding="utf-8")
    section = page.partition("\n## Published figures")[2]
    tables = [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)]
    rows = [row for table in tables if table[0].endswith("| protocol |") for row in table[2:]]
    assert rows, f"{corpus}: no table of published figures with their protocol"
    for row in rows:
        assert all(cell.strip(" -") for cell in row.strip("|").split("|")), f"{corpus}: {row}"
    assert _SOURCE.search(section), f"{corpus}: whose figures they are is not said"
