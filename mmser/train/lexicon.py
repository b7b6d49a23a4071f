"""An emotion lexicon: how emotional words are, by a table of the user's own; heads take it as a prior over words.

mmser ships none, since those that exist have licences of their own. Any becomes a table of two columns: of NRC-VAD,
say, the distance from the neutral point, of an intensity lexicon the largest intensity.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from mmser.errors import ProtocolError
from mmser.manifest import Manifest
from mmser.train.features import Sources
from mmser.train.folder import write_csv
from mmser.train.packed import Packed
from mmser.train.table import Table
from mmser.transcript import text_digest, transcript_words

LEXICON_FILE = "lexicon.csv"
"""The copy in a run folder: its heads go on to be asked with the weights that they were trained with."""


@dataclass(frozen=True)
class Lexicon:
    """Weights by word."""

    weights: Mapping[str, float]
    """Lower-case word, without the punctuation around it, to its weight; a word that is not there has 0."""

    @property
    def digest(self) -> str:
        """SHA-256 of words and weights, in hex."""
        return hashlib.sha256(json.dumps(sorted(self.weights.items())).encode()).hexdigest()

    def of(self, word: str) -> float:
        """The weight of a word as it stands in a transcript.

        >>> Lexicon({"can't": 0.4}).of("Can't,")
        0.4
        """
        return self.weights.get(_plain(word), 0.0)


def read_lexicon(path: Path) -> Lexicon:
    """Read a table (CSV, or TSV by its name) with the columns ``word`` and ``weight``; emoticons in it are passed over.

    Raises:
        ProtocolError: it cannot be read, lacks a column, holds no word, a word twice with two weights, or a weight that
            is no finite number.
    """
    try:
        rows = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise ProtocolError(f"{path}: not readable as a table ({error})") from error
    missing = [name for name in ("word", "weight") if name not in rows]
    if missing:
        raise ProtocolError(
            f"{path}: no column {missing[0]!r}; found {', '.join(map(repr, rows.columns))}; expected word and weight"
        )
    weights: dict[str, float] = {}
    numbers = pd.to_numeric(rows["weight"], errors="coerce")
    for line, (word, weight) in enumerate(zip(rows["word"], numbers, strict=True), start=2):
        if not np.isfinite(weight):
            raise ProtocolError(f"{path}, line {line}: the weight of {word!r} is no finite number")
        plain = _plain(word)
        if not plain:  # an emoticon: what has no letter or digit is no word of a transcript
            continue
        if weights.setdefault(plain, float(weight)) != weight:
            raise ProtocolError(f"{path}, line {line}: {word!r} has two weights; expected one a word")
    if not weights:
        raise ProtocolError(f"{path}: holds no word")
    return Lexicon(weights)


def transcripts(manifest: Manifest, ids: Sequence[str], sources: Sources) -> tuple[str, ...]:
    """The transcripts of utterances, in their order: those that tokens and alignments number the words of.

    Raises:
        ProtocolError: an utterance's states were made from another transcript than the manifest holds now.
    """
    texts = {utterance.utterance_id: utterance.text or "" for utterance in manifest.utterances()}
    for stream in [own for own in (sources.text, sources.align) if own is not None]:
        made_from = stream.digests("text")
        for uid in ids:
            if made_from.get(uid) and made_from[uid] != text_digest(texts[uid]):  # empty where not known
                now = repr(texts[uid]) if texts[uid] else "empty"
                raise ProtocolError(
                    f"utterance {uid!r}: {stream.name} was made from another text than the manifest's, which is {now} "
                    "now, so that its words cannot be looked up in a lexicon; extract again with --refresh, or put the "
                    "text back"
                )
    return tuple(texts[uid] for uid in ids)


def keep_lexicon(lexicon: Lexicon, folder: Path) -> None:
    """Write the copy of a run folder, or make sure that it is this very lexicon's.

    Raises:
        ProtocolError: the folder's heads were trained with another.
    """
    path = folder / LEXICON_FILE
    if not path.exists():
        write_csv(pd.DataFrame(sorted(lexicon.weights.items()), columns=["word", "weight"]), path, precise=True)
    elif read_lexicon(path).digest != lexicon.digest:
        raise ProtocolError(
            f"{path}: the heads here were trained with other weights; give another --out, or delete the folder"
        )


def weighed(table: Table, texts: Sequence[str], lexicon: Lexicon) -> Table:
    """The table, its states knowing the weight of their word; those that know no word stay without.

    Args:
        table: with words (:func:`mmser.train.features.load_table` with alignments).
        texts: each row's transcript (:func:`transcripts`).
        lexicon: the weights.
    """
    of_words = [np.array([lexicon.of(word.text) for word in transcript_words(text)]) for text in texts]
    speech = {name: _weighed(stream, of_words) for name, stream in table.speech.items()}
    return replace(table, speech=speech, text=None if table.text is None else _weighed(table.text, of_words))


def _weighed(stream: Packed, of_words: Sequence[NDArray[np.float64]]) -> Packed:
    if stream.word is None:
        return stream
    words, offsets = stream.word.cpu().numpy(), stream.offsets.cpu().numpy()
    weights = np.zeros(len(words), dtype=np.float32)
    for row, own in enumerate(of_words):
        span = slice(offsets[row], offsets[row + 1])
        weights[span] = np.append(own, 0.0)[words[span]]  # word -1, none, takes the 0 at the end
    return replace(stream, lexicon=torch.from_numpy(weights).to(stream.values.device))


def _plain(word: str) -> str:
    """Without case, and without what is no letter or digit at its ends."""
    kept = [place for place, character in enumerate(word) if character.isalnum()]
    return word[kept[0] : kept[-1] + 1].casefold() if kept else ""
