"""What a training is asked to do. Every default is here, once; the command line shows them (and so loads no torch).

Marks, as those of heads' options: [S] stated by the source named, [C] in public code, [M] remembered, [D] our default;
what names a column, a file, a stream or this machine has none. Zhao et al. is arXiv 2207.04697, Triantafyllopoulos et
al. is arXiv 2110.06650.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmser.checks import check_choice, check_number
from mmser.errors import ProtocolError
from mmser.records import GRANULARITIES

NORMALISATIONS = ("global", "speaker", "none")
TASKS = ("categorical", "dimensional", "both")
DEV_RULES = ("next", "speaker")
MISSING = ("drop", "keep")
SCHEDULES = ("constant", "linear", "cosine")
FUSION_RULES = ("mean", "dev-weighted", "svm", "logistic", "concat")
OPTIMISERS = ("adamw", "sgd")
TOKEN = "token"
"""What text states stand for."""


@dataclass(frozen=True)
class Training:
    """How to train; the same for all runs of a stack."""

    epochs: int = 50
    """At most [D]; for CNN14 60 (Triantafyllopoulos et al. [M])."""
    batch_size: int = 32
    """Utterances a step. The last batch of an epoch may be smaller; its loss is the mean over what it has.
    [D]; for CNN14 32 as well (Triantafyllopoulos et al. [M])."""
    patience: int = 10
    """Epochs without a better dev score after which a run stops [D]."""
    optimiser: str = "adamw"
    """``adamw`` [D], or ``sgd`` with Nesterov's momentum (Triantafyllopoulos et al. for CNN14 [M]), under which weight
    decay is L2."""
    momentum: float = 0.9
    """SGD: share of the step before that is kept (Triantafyllopoulos et al. for CNN14 [M])."""
    crop_s: float = 5.0
    """Seconds of log-mel frames that a training utterance is cut to, at a place drawn anew each epoch; 0: never cut
    (Triantafyllopoulos et al. for CNN14 [M]). Dev and test utterances are always whole."""
    beta1: float = 0.9
    """AdamW: decay of the mean gradient (Kingma and Ba 2015 [S])."""
    beta2: float = 0.999
    """AdamW: decay of the mean square (Kingma and Ba 2015 [S])."""
    epsilon: float = 1e-8
    """AdamW: added to the root (Kingma and Ba 2015 [S])."""
    clip_norm: float = 1.0
    """Longest gradient of one run, as a Euclidean norm; longer ones are scaled down. 0: no limit. SUPERB's recipes
    clip at 1 [C]."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes [D]."""
    class_weights: str = "none"
    """``none`` [D], or ``balanced``: n / (classes x n_class), counted on the run's own training rows (for CNN14,
    Triantafyllopoulos et al. [M])."""
    normalise: str = "global"
    """``global`` [D]: each feature standardised by the run's own training rows; ``none``."""
    schedule: str = "constant"
    """Of the learning rate, over a run's own steps: ``constant`` [D], ``linear`` or ``cosine``, the last two to 0."""
    warmup: float = 0.0
    """Share of a run's steps in which the rate first rises in a line [D]."""
    categorical_weight: float = 0.5
    """Of the cross-entropy where classes and dimensions are learnt together; the CCC loss has the rest
    [D]."""
    dimension_weights: tuple[float, ...] = ()
    """Of each dimension in the CCC loss; empty: all equal [D]."""
    metric_weight: float = 0.0
    """Of a metric-learning loss that is added where classes are told: supervised contrast between the utterances of a
    batch (Khosla et al. 2020, arXiv 2004.11362) on what the head's last layer sees. 0: none [D]."""
    metric_temperature: float = 0.1
    """Divides the cosines in that loss (theirs: 0.1 [M])."""
    memory_gb: float = 0.0
    """What the runs at work may occupy, all processes together, beside the features and the weights of runs that ended.
    0: on a GPU half of what the features leave of it, 4 GB otherwise [D]."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            check_number(name, getattr(self, name), least=1)
        for name in ("beta1", "beta2", "momentum", "label_smoothing", "warmup"):
            check_number(name, getattr(self, name), least=0, below=1)
        for name in ("epsilon", "clip_norm", "memory_gb", "crop_s", "metric_weight", "metric_temperature"):
            check_number(name, getattr(self, name), least=0)
        if not self.metric_temperature:
            raise ProtocolError("metric_temperature is 0; expected more: cosines are divided by it")
        check_choice("class_weights", self.class_weights, ("none", "balanced"))
        check_choice("optimiser", self.optimiser, OPTIMISERS)
        if self.optimiser == "sgd" and not self.momentum:
            raise ProtocolError("momentum is 0; Nesterov's momentum is more than 0")
        check_choice("normalise", self.normalise, ("global", "none"))
        check_choice("schedule", self.schedule, SCHEDULES)
        if not 0 < self.categorical_weight < 1:
            raise ProtocolError(
                f"categorical_weight is {self.categorical_weight:g}; expected more than 0 and less than 1 (for one of "
                "the two alone choose that task)"
            )
        for weight in self.dimension_weights:
            check_number("a dimension's weight", weight, least=0)
        if self.dimension_weights and not sum(self.dimension_weights):
            raise ProtocolError("the dimensions' weights are all 0: nothing would be learnt")


@dataclass(frozen=True)
class Experiment:
    """One head, or one late fusion, over all folds and seeds.

    Raises:
        ProtocolError: an unknown normalisation, no seed, or a rate that is no rate.
    """

    head: str = "coattention"
    """A head of :data:`mmser.heads.HEADS`, or ``late-fusion``."""
    granularity: str = "word"
    """Speech states that the head sees: frame, phone, syllable, word (Zhao et al. [S]; which alone, [D]) or utterance
    (ours); several (``phone,word``) for one head that sees them all."""
    layer: str = "mix"
    """Speech layer: its number, ``-1`` for the last that is stored, several (``4,8,12``) for a learned weighted sum of
    those, or ``mix`` for one of all (SUPERB [S]; for other heads than its probe, [D])."""
    text_layer: str = "-1"
    """Text layer, in the same way: a number, ``-1`` for the last that is stored [D], several, or ``mix``."""
    task: str = "categorical"
    """``categorical`` (classes) or ``dimensional`` (ratings; both tasks in Triantafyllopoulos et al. [S]), or ``both``
    by one head; ours."""
    protocol: str = ""
    """The preset that folds, dev part and the like were taken from (:mod:`mmser.train.presets`); a record alone."""
    folds: str = "speaker"
    """Column whose every value is test once (speaker, session, ...), or ``split`` for given parts."""
    test_split: str | None = None
    """Which test part to open, where the ``split`` column holds several (``Test1``); the others are left out."""
    dev: str = "next"
    """``next``: the next value of the fold column selects, or the dev part of given splits; ``speaker``: speakers held
    out of the training part. [D]"""
    dev_share: float = 0.2
    """Share of the training part's speakers that are held out; at least one is [D]."""
    dev_seed: int = 0
    """Which speakers: drawn anew for each fold, the same for all its runs."""
    label: str = "label"
    """Column of the classes."""
    labels: tuple[str, ...] = ()
    """Classes to keep; empty: all there are. Utterances of other classes are left out."""
    soft: str = ""
    """Prefix of columns of votes: ``votes_`` takes ``votes_angry`` for class angry. The loss then asks for each row's
    shares of the votes instead of its label; predictions are scored by the label all the same."""
    dimensions: tuple[str, ...] = ("arousal", "valence", "dominance")
    """Columns of the ratings to predict, where the task has ratings."""
    missing: str = "drop"
    """An utterance that lacks some of the states a head reads (no recording, no words): ``drop`` it, or ``keep`` it
    with an empty sequence as long as it has others [D]."""
    require: str | None = None
    """States that an utterance must have beside those that the heads read (``phone,word,token``), so that unlike heads
    are trained and tested on the same utterances; whatever ``missing`` says."""
    seeds: int = 1
    """Runs of each fold, with seeds 0, 1, ... [D]"""
    normalise: str = "global"
    """``global`` [D]: features standardised by the training part; ``speaker``: speech by each speaker's own recordings,
    the test speaker's too, without labels, and text by the training part; ``none``."""
    members: tuple[str, ...] = ()
    """Of a late fusion: heads, each optionally ``HEAD@GRANULARITY`` or ``HEAD@phone+word``; empty: speech-probe and
    text-probe [D]."""
    fusion: str = "mean"
    """How a late fusion combines its members, which Zhao et al. do not settle: the ``mean`` of their answers [D] (for
    CNN14 and text, Triantafyllopoulos et al. [M]); ``dev-weighted`` (ours), ``svm`` (arXiv 2210.14495 [S]) or, of
    classes alone, ``logistic`` (ours), fitted on dev predictions (:mod:`mmser.train.fusion`); ``concat`` (ours): a
    linear layer on what the members' last layers see, trained as they are."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Options of the head (width, dropout, pooling, ...) that differ from its defaults."""
    learning_rate: float | tuple[float, ...] = 1e-3
    """AdamW's or SGD's [D]; several are tried, and each fold's dev part chooses."""
    weight_decay: float | tuple[float, ...] = 1e-2
    """AdamW's, decoupled, or SGD's [D]; several are tried likewise."""
    try_layers: tuple[str, ...] = ()
    """Speech layers to try one by one, in place of ``layer``; each fold's dev part chooses. None [D]."""
    report_oracle: bool = False
    """Also say what choosing the epoch on the test part would have given. It changes nothing else."""
    lexicon: str = ""
    """A table of words and weights (:mod:`mmser.train.lexicon`), for a head whose prior over words it is."""
    speech_stream: str | None = None
    """Which stream of the cache, where several hold the granularity."""
    text_stream: str | None = None
    """The same for text."""
    mel_stream: str | None = None
    """The same for log-mel frames."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ..."""
    training: Training = field(default_factory=Training)
    """Epochs, batch size, patience and the rest."""

    def __post_init__(self) -> None:
        for name, layer in {"layer": self.layer, "text_layer": self.text_layer}.items():
            if not isinstance(layer, str):
                raise ProtocolError(f"{name} is {layer!r}; expected text: a number, several (4,8,12), or mix")
        check_choice("normalise", self.normalise, NORMALISATIONS)
        check_choice("task", self.task, TASKS)
        check_choice("dev", self.dev, DEV_RULES)
        check_choice("missing", self.missing, MISSING)
        check_choice("fusion", self.fusion, FUSION_RULES)
        for name in self.required:
            check_choice("require", name, (*GRANULARITIES, TOKEN))
        if self.has_ratings and self.training.batch_size < 2:
            raise ProtocolError(
                f"batch_size is {self.training.batch_size}; expected 2 or more for ratings, whose loss is a "
                "correlation over the batch"
            )
        check_number("seeds", self.seeds, least=1)
        if not 0 < self.dev_share < 1:
            raise ProtocolError(f"dev_share is {self.dev_share:g}; expected more than 0 and less than 1")
        for name, values in {"learning rate": self.learning_rates, "weight decay": self.weight_decays}.items():
            if not values:
                raise ProtocolError(f"no {name} is named; expected one or more")
        for value in self.learning_rates:
            if not 0 < value < math.inf:
                raise ProtocolError(f"learning rate is {value:g}; expected more than 0")
        for value in self.weight_decays:
            check_number("weight decay", value, least=0)
        _check_distinct("learning rate", self.learning_rates)
        _check_distinct("weight decay", self.weight_decays)
        _check_distinct("layer to try", self.try_layers)
        if self.has_ratings:
            _check_distinct("dimension", self.dimensions)
            if not self.dimensions:
                raise ProtocolError(f"task {self.task}: no dimension is named")
        if self.training.dimension_weights and len(self.training.dimension_weights) != len(self.dimensions):
            raise ProtocolError(
                f"{len(self.training.dimension_weights)} weights for {len(self.dimensions)} dimensions "
                f"({', '.join(self.dimensions)}); expected one for each"
            )
        if self.training.metric_weight and not self.has_classes:
            raise ProtocolError(f"a metric loss draws classes together, and the task is {self.task}")
        if self.soft and not self.has_classes:
            raise ProtocolError(f"soft labels ({self.soft}...) are for classes, and the task is {self.task}")

    @property
    def has_classes(self) -> bool:
        """Whether classes are to be told."""
        return self.task != "dimensional"

    @property
    def has_ratings(self) -> bool:
        """Whether dimensions are to be rated."""
        return self.task != "categorical"

    @property
    def required(self) -> tuple[str, ...]:
        """The states that an utterance must have, one by one."""
        return tuple(name.strip() for name in self.require.split(",")) if self.require is not None else ()

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """All that are tried."""
        return self.learning_rate if isinstance(self.learning_rate, tuple) else (self.learning_rate,)

    @property
    def weight_decays(self) -> tuple[float, ...]:
        """All that are tried."""
        return self.weight_decay if isinstance(self.weight_decay, tuple) else (self.weight_decay,)


def with_text_layer(stored: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment as JSON has it, its text layer as text: older ones have a number, or nothing for the last.

    >>> [with_text_layer(own)["text_layer"] for own in ({}, {"text_layer": None}, {"text_layer": 7})]
    ['-1', '-1', '7']
    """
    layer = stored.get("text_layer")
    return {**stored, "text_layer": Experiment.text_layer if layer is None else str(layer)}


def _check_distinct(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ProtocolError(f"{name} {value} is named twice")
