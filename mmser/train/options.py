"""What a training is asked to do. Every default is here, once; the command line shows them (and so loads no torch)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmser.checks import check_choice, check_number
from mmser.errors import ProtocolError

NORMALISATIONS = ("global", "speaker", "none")
TASKS = ("categorical", "dimensional", "both")
DEV_RULES = ("next", "speaker")
MISSING = ("drop", "keep")
SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Training:
    """How to train; the same for all runs of a stack. Defaults are ours where no source is named."""

    epochs: int = 50
    """At most."""
    batch_size: int = 32
    """Utterances a step. The last batch of an epoch may be smaller; its loss is the mean over what it has."""
    patience: int = 10
    """Epochs without a better dev score after which a run stops."""
    beta1: float = 0.9
    """AdamW: decay of the mean gradient (Kingma and Ba 2015)."""
    beta2: float = 0.999
    """AdamW: decay of the mean square (Kingma and Ba 2015)."""
    epsilon: float = 1e-8
    """AdamW: added to the root (Kingma and Ba 2015)."""
    clip_norm: float = 1.0
    """Longest gradient of one run, as a Euclidean norm; longer ones are scaled down. 0: no limit. SUPERB's recipes
    clip at 1."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes."""
    class_weights: str = "none"
    """``none``, or ``balanced``: n / (classes x n_class), counted on the run's own training rows."""
    normalise: str = "global"
    """``global``: each feature standardised by the run's own training rows; ``none``."""
    schedule: str = "constant"
    """Of the learning rate, over a run's own steps: ``constant``, ``linear`` or ``cosine``, the last two to 0."""
    warmup: float = 0.0
    """Share of a run's steps in which the rate first rises in a line."""
    categorical_weight: float = 0.5
    """Of the cross-entropy where classes and dimensions are learnt together; the CCC loss has the rest."""
    dimension_weights: tuple[float, ...] = ()
    """Of each dimension in the CCC loss; empty: all equal."""
    memory_gb: float = 0.0
    """What a stack may occupy beside the features. 0: half of what is free on a GPU, 4 GB otherwise."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            check_number(name, getattr(self, name), least=1)
        for name in ("beta1", "beta2", "label_smoothing", "warmup"):
            check_number(name, getattr(self, name), least=0, below=1)
        for name in ("epsilon", "clip_norm", "memory_gb"):
            check_number(name, getattr(self, name), least=0)
        check_choice("class_weights", self.class_weights, ("none", "balanced"))
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
    """Speech states that the head sees: frame, phone, syllable, word or utterance."""
    layer: str = "mix"
    """Speech layer: its number, ``-1`` for the last that is stored, or ``mix`` for a learned weighted sum of all."""
    text_layer: int | None = None
    """Text layer; None: the last that is stored."""
    folds: str = "speaker"
    """Column whose every value is test once (speaker, session, ...), or ``split`` for given parts."""
    test_split: str | None = None
    """Which test part to open, where the ``split`` column holds several (``Test1``); the others are left out."""
    label: str = "label"
    """Column of the classes."""
    labels: tuple[str, ...] = ()
    """Classes to keep; empty: all there are. Utterances of other classes are left out."""
    seeds: int = 1
    """Runs of each fold, with seeds 0, 1, ..."""
    normalise: str = "global"
    """``global``: features standardised by the training part; ``speaker``: speech by each speaker's own recordings, the
    test speaker's too, without labels, and text by the training part; ``none``."""
    members: tuple[str, ...] = ()
    """Of a late fusion: heads, each optionally ``HEAD@GRANULARITY``; empty: speech-probe and text-probe."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Options of the head (width, dropout, pooling, ...) that differ from its defaults."""
    learning_rate: float = 1e-3
    """AdamW's."""
    weight_decay: float = 1e-2
    """AdamW's, decoupled."""
    speech_stream: str | None = None
    """Which stream of the cache, where several hold the granularity."""
    text_stream: str | None = None
    """The same for text."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ..."""
    training: Training = field(default_factory=Training)
    """Epochs, batch size, patience and the rest."""

    def __post_init__(self) -> None:
        check_choice("normalise", self.normalise, NORMALISATIONS)
        check_number("seeds", self.seeds, least=1)
        check_number("learning rate", self.learning_rate, least=0)
        check_number("weight decay", self.weight_decay, least=0)
