"""A lexicon of one's own as a prior over words."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmser.errors import ProtocolError
from mmser.heads.batch import Sequence
from mmser.heads.bayesian_coattention import StochasticAttention
from mmser.train.lexicon import Lexicon, read_lexicon, weighed
from mmser.train.table import Packed, Table


def written(folder: Path, text: str, name: str = "words.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_words_are_found_whatever_their_case_and_punctuation(tmp_path: Path) -> None:
    lexicon = read_lexicon(written(tmp_path, "word\tweight\nHate\t0.9\nl'été\t0.25\n", "words.tsv"))
    assert [lexicon.of(word) for word in ("hate!", "“HATE”", "L'été,", "hated", "--")] == [0.9, 0.9, 0.25, 0.0, 0.0]


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
    with torch.no_grad():
        attention.trust.fill_(2.0)
        _, found = attention(torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(1)), context)
        attention.trust.fill_(0.0)
        _, plain = attention(torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(1)), context)
    expected = plain * (2.0 * weight).exp()
    torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True))
