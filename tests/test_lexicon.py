"""A lexicon of one's own as a prior over words."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_cache import edit_manifest
from small_corpus import Said, make_corpus, mmser, run

from mmser.cache import Cache
from mmser.errors import ProtocolError
from mmser.heads.batch import Sequence
from mmser.heads.bayesian_coattention import StochasticAttention
from mmser.heads.store import load_head
from mmser.manifest import Manifest, read_manifest, write_manifest
from mmser.train.apply import apply
from mmser.train.lexicon import Lexicon, read_lexicon, weighed
from mmser.train.packed import Packed
from mmser.train.table import Table


def written(folder: Path, text: str, name: str = "words.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_words_are_found_whatever_their_case_and_punctuation(tmp_path: Path) -> None:
    lexicon = read_lexicon(written(tmp_path, "word\tweight\nHate\t0.9\nl'été\t0.25\n", "words.tsv"))
    assert [lexicon.of(word) for word in ("hate!", "“HATE”", "L'été,", "hated", "--")] == [0.9, 0.9, 0.25, 0.0, 0.0]


def test_case_is_that_of_any_language(tmp_path: Path) -> None:
    """Capitals have no ß but SS, and a Greek word ends in another sigma than its capitals."""
    lexicon = read_lexicon(written(tmp_path, "word,weight\nspaß,0.5\nÄRGER,0.75\nΠΌΘΟΣ,1\n"))
    said = ("Spaß", "SPASS!", "ärger,", "Ärger", "πόθος", "Πόθος", "spas")
    assert [lexicon.of(word) for word in said] == [0.5, 0.5, 0.75, 0.75, 1.0, 1.0, 0.0]
    with pytest.raises(ProtocolError, match="line 3: 'GROSS' has two weights"):
        read_lexicon(written(tmp_path, "word,weight\ngroß,1\nGROSS,2\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("term,weight\nhate,1\n", "no column 'word'; found 'term', 'weight'"),
        ("word,weight\nhate,much\n", "line 2: the weight of 'hate' is no finite number"),
        ("word,weight\nhate,inf\n", "line 2: the weight of 'hate' is no finite number"),
        ("word,weight\nhate,1\nHate,2\n", "line 3: 'Hate' has two weights"),
        ("word,weight\n", "holds no word"),
        ("", "not readable as a table"),
    ],
)
def test_a_lexicon_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        read_lexicon(written(tmp_path, text))


def test_states_take_the_weight_of_their_word() -> None:
    """The second utterance has no states; the third, a state of no word."""
    words = torch.tensor([0, 0, 1, 2, 0, -1])
    stream = Packed(torch.zeros(1, 6, 2), torch.tensor([0, 4, 4, 6]), words)
    bare = Packed(torch.zeros(1, 3, 2), torch.tensor([0, 1, 2, 3]))
    table = Table(("a", "b", "c"), {"phone": stream, "utterance": bare}, stream)
    found = weighed(table, ["I hate it", "hate", "it!"], Lexicon({"hate": 0.9, "it": 0.1}))
    for own in (found.speech["phone"], found.text):
        np.testing.assert_allclose(own.lexicon, [0.0, 0.0, 0.9, 0.1, 0.1, 0.0])
    assert found.speech["utterance"].lexicon is None
    gathered = found.speech["phone"].gather(torch.tensor([[0, 2]])).lexicon
    np.testing.assert_allclose(gathered, [[[0.0, 0.0, 0.9, 0.1], [0.1, 0.0, 0.0, 0.0]]])


def test_the_prior_multiplies_the_weights_of_attention() -> None:
    """By exp(trust x weight), as an exponential of a sum is a product."""
    torch.manual_seed(0)
    attention = StochasticAttention(8, 2, 10.0, "lexicon")
    weight = torch.tensor([[0.0, 0.7, 0.2]])
    context = Sequence(torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool), lexicon=weight)
    query = Sequence(torch.randn(1, 4, 8), torch.ones(1, 4, dtype=torch.bool))
    with torch.no_grad():
        attention.trust.fill_(2.0)
        _, (found,) = attention(query, context)
        attention.trust.fill_(0.0)
        _, (plain,) = attention(query, context)
    expected = plain * (2.0 * weight).exp()
    torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six utterances of three speakers."""
    folder = tmp_path_factory.mktemp("lexicon")
    run(make_corpus(folder), folder / "cache", keep=("word", "utterance"))

    def tell(rows: pd.DataFrame) -> None:
        rows["speaker"], rows["label"] = list("aabbcc"), ["hot", "cold"] * 3

    edit_manifest(folder / "cache", tell)
    return folder / "cache"


def trained(cache: Path, out: Path, *more: object) -> Said:
    chosen = ("--head", "bayesian-coattention", "--granularity", "word", "--layer", "-1", "--epochs", 2)
    return mmser("train-head", cache, *chosen, "--set", "width=8", "--set", "heads=2", "--out", out, *more)


def test_a_head_learns_with_a_lexicon_and_its_folder_keeps_the_weights(cache: Path, tmp_path: Path) -> None:
    path, out, prior = written(tmp_path, "word,weight\nhi,0.123456789\nyes,1\n"), tmp_path / "run", "prior=lexicon"
    result = trained(cache, out, "--set", prior, "--lexicon", path)
    assert result.exit_code == 0, result.output
    assert read_lexicon(out / "lexicon.csv").digest == read_lexicon(path).digest
    head, _ = load_head(sorted((out / "heads").iterdir())[0])
    assert head.pairs["word"].text.attention.trust.item() != 1.0
    assert trained(cache, out, "--set", prior, "--lexicon", path).stdout == result.stdout
    predictions = pd.read_csv(out / "predictions.csv").set_index("utterance_id")
    for folder in (out / "heads").iterdir():
        own = predictions[predictions["fold"] == load_head(folder)[1]["fold"]]
        said = apply(folder, Cache(cache), list(own.index))
        np.testing.assert_allclose(said.posteriors, own[[f"p_{label}" for label in said.labels]], atol=1e-5)
    changed = trained(cache, out, "--set", prior, "--lexicon", written(tmp_path, "word,weight\nhi,0.2\n"))
    assert changed.exit_code == 1
    assert "the heads here were trained with other weights" in changed.output
    alone = shutil.copytree(folder, tmp_path / "me" / "snapshots" / "head")  # as the hub would give it
    with pytest.raises(ProtocolError, match=r"lexicon.csv: no such file; .* lies in its run folder"):
        apply(alone, Cache(cache), list(own.index))


def test_a_lexicon_and_a_head_that_reads_it_belong_together(cache: Path, tmp_path: Path) -> None:
    path = written(tmp_path, "word,weight\nhi,1\n")
    assert "give --lexicon FILE" in trained(cache, tmp_path / "a", "--set", "prior=lexicon").output
    assert "no head here reads one" in trained(cache, tmp_path / "b", "--lexicon", path).output


def test_words_are_those_of_the_text_that_was_extracted(tmp_path: Path) -> None:
    """Another text of as many words would give wrong weights without a word, one of fewer an IndexError."""
    corpus, cache, out = make_corpus(tmp_path), tmp_path / "cache", tmp_path / "out"
    given = read_manifest(corpus).table.assign(speaker=list("aabbcc"), label=["hot", "cold"] * 3)

    def extracted(table: pd.DataFrame, *, refresh: bool = False) -> None:
        write_manifest(Manifest(table, tmp_path), corpus)
        run(corpus, cache, keep=("word", "utterance"), refresh=refresh)

    chosen = ("--set", "prior=lexicon", "--lexicon", written(tmp_path, "word,weight\nhi,1\n"), "--epochs", 1)
    extracted(given)
    assert trained(cache, out, *chosen).exit_code == 0
    head = sorted((out / "heads").iterdir())[0]
    edited = given.assign(text=["Yes a word!", *given["text"][1:]])
    for table, now in (
        (edited, "'Yes a word!'"),
        (given.assign(text=["Yes", *given["text"][1:]]), "'Yes'"),
        (given.drop(columns="text"), "empty"),
    ):
        extracted(table)
        said = f"'u0': text/builtin-tiny was made from another text than the manifest's, which is {now} now"
        refused = trained(cache, tmp_path / "other", *chosen)
        assert (refused.exit_code, said in refused.stderr, "--refresh" in refused.stderr) == (1, True, True)
        with pytest.raises(ProtocolError, match=said):
            apply(head, Cache(cache), ["u0"])
        assert trained(cache, tmp_path / "plain", "--epochs", 1).exit_code == 0  # no lexicon, no words to look up
    extracted(edited, refresh=True)
    assert trained(cache, tmp_path / "other", *chosen).exit_code == 0


def test_emoticons_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("word,weight\nhappy,0.9\n:),0.8\n:(,0.7\n")
    lexicon = read_lexicon(tmp_path / "a.csv")
    assert lexicon.weights == {"happy": 0.9}
    assert lexicon.of("...") == 0.0
