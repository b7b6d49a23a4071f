"""The main job on embedded defaults: a corpus is spoken, aligned, encoded and learnt from."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmser.cache import Cache
from mmser.demo.corpus import EMOTIONS, SPEAKERS, speak_corpus
from mmser.errors import ProtocolError
from mmser.extract.options import Extraction
from mmser.extract.run import Summary, extract
from mmser.files import name_of
from mmser.report import Written, write_report
from mmser.train.options import Experiment, Training
from mmser.train.run import Result, train_head
from mmser.train.stored import read_config

SEEDS = 3
_TRAINING = Training(epochs=60, patience=20)  # a dev fold of 40 utterances is a coarse judge: wait longer
_FASTER: dict[str, Any] = {"seeds": SEEDS, "learning_rate": 3e-3, "training": _TRAINING}
EXPERIMENTS = {
    "late-fusion": Experiment(head="late-fusion", granularity="utterance", settings={"hidden": 64}, **_FASTER),
    "coattention": Experiment(head="coattention", granularity="word", seeds=SEEDS, settings={"width": 64, "heads": 4}),
}
"""A speech probe, a text probe and their late fusion; and co-attention between words spoken and words written."""

_NEXT = """\
The corpus is synthetic and the encoders are untrained: these figures show that the whole way works, and no more.

To look at single utterances, hear them, and see where co-attention looked:

  mmser report {runs} --explore {cache} --with-audio

Everything lies in {cache} (recordings: {corpus}) and {runs}.
With a corpus of your own (utterance_id, audio, text, speaker, label) and pre-trained encoders:

  mmser extract my.csv --cache cache/my --align pocketsphinx \\
      --speech-model facebook/wav2vec2-base --text-model google-bert/bert-base-uncased
  mmser train-head cache/my --head coattention --granularity word --folds speaker --seeds 5
"""

_EXTRACTION = Extraction(
    speech_model="builtin:tiny",
    text_model="builtin:tiny",
    aligner="pocketsphinx",
    pooling="mean+std",
    refresh=True,  # another synthesizer, or another recipe of the corpus, speaks the same utterances differently
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the demo did."""

    extraction: Summary
    results: list[Result]
    report: Written
    next_steps: str


def demo(
    cache: Path,
    runs: Path,
    *,
    say: Callable[[str], None],
    report: Callable[[str, int, int, float], None],
    aside: Callable[[str], None] = lambda _: None,
    num_sentences: int = 10,
) -> Outcome:
    """Speak the corpus into ``CACHE-corpus``, fill the cache, train, write the report. Run again, do what is missing.

    Args:
        cache: the cache to make.
        runs: where the run folders go.
        say: told what is going on.
        report: told how far it is.
        aside: told what the extraction says before its work goes on (:func:`mmser.extract.run.extract`).
        num_sentences: sentences an emotion and speaker (:func:`mmser.demo.corpus.speak_corpus`).

    Raises:
        MmserError: espeak-ng is not installed (says how), or a folder holds something else, such as heads of the corpus
            as it was spoken before.
    """
    beside = cache if cache.name == name_of(cache) else Path(os.path.abspath(cache))  # . and .. have no name
    corpus = beside.with_name(f"{beside.name}-corpus")
    runs.mkdir(parents=True, exist_ok=True)  # what is in the way there is better known before the work than after it
    say(
        f"Speaking {len(SPEAKERS) * len(EMOTIONS) * num_sentences} utterances: {len(SPEAKERS)} voices, "
        f"{len(EMOTIONS)} emotions, told by the words, by the voice, or by both (espeak-ng)"
    )
    manifest = speak_corpus(corpus, num_sentences=num_sentences)
    summary = extract(manifest, cache, _EXTRACTION, report, aside)
    results = [_train(cache, experiment, runs / name, report) for name, experiment in EXPERIMENTS.items()]
    written = write_report(runs, report=lambda what, done, total: report(what, done, total, 0.0))
    return Outcome(summary, results, written, _NEXT.format(cache=cache, corpus=corpus, runs=runs))


def _train(cache: Path, experiment: Experiment, folder: Path, report: Callable[[str, int, int, float], None]) -> Result:
    try:
        return train_head(cache, experiment, folder, report=lambda head, done, total: report(head, done, total, 0.0))
    except ProtocolError as error:
        if not (folder / "config.json").exists():
            raise
        streams = Cache(cache).streams
        there = {name: [shard.name for shard in stream.shards] for name, stream in streams.items()}
        if all(there.get(name) == list(shards) for name, shards in read_config(folder)["shards"].items()):
            raise
        raise ProtocolError(
            f"{folder} holds heads of other states than those of {cache}, as of the corpus before it was spoken anew; "
            f"delete the folder {folder.parent}, or give another --runs"
        ) from error
