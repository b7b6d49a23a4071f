"""What a training is asked to do. Every default is here or in :class:`~mmser.train.plan.Training`, once."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.records import GRANULARITIES
from mmser.train.plan import Training

NORMALISATIONS = ("global", "speaker", "none")

FUSIONS: dict[str, tuple[str, ...]] = {"late-fusion": ("speech-probe", "text-probe")}
"""Late fusions by name, with the members they have unless told otherwise: the mean of the members' posteriors."""


@dataclass(frozen=True)
class Experiment:
    """One head, or one late fusion, over all folds and seeds.

    Raises:
        ProtocolError: an unknown head, member, granularity or normalisation.
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
    label: str = "label"
    """Column of the classes."""
    labels: tuple[str, ...] = ()
    """Classes to keep; empty: all there are. Utterances of other classes are left out."""
    seeds: int = 1
    """Runs of each fold, with seeds 0, 1, ..."""
    normalise: str = "global"
    """``global``: features standardised by the training part; ``speaker``: by each speaker's own recordings, the test
    speaker's too, without labels; ``none``."""
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
        if self.head not in HEADS and self.head not in FUSIONS:
            raise ProtocolError(f"no head is called {self.head!r}; there are {', '.join([*HEADS, *FUSIONS])}")
        if self.members and self.head not in FUSIONS:
            raise ProtocolError(f"--members belongs to a late fusion, but the head is {self.head!r}")
        if self.normalise not in NORMALISATIONS:
            raise ProtocolError(f"normalise {self.normalise!r}: expected one of {', '.join(NORMALISATIONS)}")
        if self.seeds < 1:
            raise ProtocolError(f"seeds {self.seeds}: expected at least 1")
        for member in self.parts:
            if member.head not in HEADS:
                raise ProtocolError(f"no head is called {member.head!r}; members can be {', '.join(HEADS)}")
            if member.granularity not in GRANULARITIES:
                raise ProtocolError(
                    f"no granularity is called {member.granularity!r}; there are {', '.join(GRANULARITIES)}"
                )

    @property
    def parts(self) -> "list[Member]":
        """The heads to train: the head itself, or a fusion's members."""
        named = (self.members or FUSIONS[self.head]) if self.head in FUSIONS else (self.head,)
        parts = []
        for name in named:
            head, _, granularity = name.partition("@")
            parts.append(Member(name, head, granularity or self.granularity))
        return parts

    def head_options(self, head: str) -> Any:
        """The options of a head, with this experiment's settings where the head has such an option.

        Raises:
            ProtocolError: a setting that none of the heads has, or a value of another type.
        """
        kinds = [HEADS[part.head].options for part in self.parts]
        known = {f.name for kind in kinds for f in fields(kind)}
        unknown = sorted(set(self.settings) - known)
        if unknown:
            raise ProtocolError(f"no option {unknown[0]!r} of {self.head}; there are {', '.join(sorted(known))}")
        own = {f.name: f.type for f in fields(HEADS[head].options)}
        return HEADS[head].options(**{n: _typed(n, v, own[n]) for n, v in self.settings.items() if n in own})


@dataclass(frozen=True)
class Member:
    """A head of an experiment."""

    name: str
    """As the user named it, e.g. ``coattention@phone``."""
    head: str
    granularity: str


def _typed(name: str, value: Any, kind: Any) -> Any:
    """A setting as its field wants it; from the command line it comes as text."""
    if not isinstance(value, str):
        return value
    try:
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[value.lower()]
        return kind(value) if kind in (int, float) else value
    except (ValueError, KeyError) as error:
        raise ProtocolError(f"option {name}={value}: expected {kind.__name__}") from error
