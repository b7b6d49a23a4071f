"""Which heads an experiment trains: the head that is named, or the members of a late fusion."""

from dataclasses import dataclass, fields
from typing import Any

from mmser.checks import check_choice
from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.records import GRANULARITIES
from mmser.train.options import FITTED_RULES, Experiment

FUSIONS: dict[str, tuple[str, ...]] = {"late-fusion": ("speech-probe", "text-probe")}
"""Late fusions by name, with the members they have unless told otherwise; ``Experiment.fusion`` is the rule."""


@dataclass(frozen=True)
class Member:
    """A head of an experiment."""

    name: str
    """As the user named it, e.g. ``coattention@phone`` or ``coattention@phone+word``."""
    head: str
    granularities: tuple[str, ...]


def members_of(experiment: Experiment) -> list[Member]:
    """The heads to train.

    >>> fusion = Experiment(head="late-fusion", members=("coattention@phone+word", "text-probe"))
    >>> [member.granularities for member in members_of(fusion)]
    [('phone', 'word'), ('word',)]

    Raises:
        ProtocolError: an unknown head or granularity, or members of what is no fusion.
    """
    check_choice("head", experiment.head, [*HEADS, *FUSIONS])
    if experiment.members and experiment.head not in FUSIONS:
        raise ProtocolError(f"--members belongs to a late fusion, but the head is {experiment.head!r}")
    if experiment.fusion != "mean" and experiment.head not in FUSIONS:
        raise ProtocolError(f"--fusion {experiment.fusion} belongs to a late fusion; the head is {experiment.head!r}")
    if experiment.fusion in FITTED_RULES and experiment.has_ratings:
        raise ProtocolError(
            f"--fusion {experiment.fusion} is fitted on classes, and the task is {experiment.task}; take mean or concat"
        )
    if experiment.fusion != "mean" and experiment.report_oracle:
        raise ProtocolError(
            f"--report-oracle goes with --fusion mean: {experiment.fusion} is fitted on what heads say after the epoch "
            "that dev chose, not after the one that the test part would"
        )
    named = experiment.members or FUSIONS.get(experiment.head, (experiment.head,))
    members = []
    for name in named:
        head, _, granularity = name.partition("@")
        check_choice("a member's head", head, HEADS)
        members.append(Member(name, head, granularities_of(granularity or experiment.granularity)))
    if len(set(named)) < len(named):
        raise ProtocolError(f"--members {','.join(named)}: a member is named twice")
    return members


def granularities_of(asked: str) -> tuple[str, ...]:
    """Granularities by name, several joined by a comma or, within a member, by a plus.

    >>> granularities_of("phone+word")
    ('phone', 'word')

    Raises:
        ProtocolError: an unknown one, or one named twice.
    """
    names = tuple(asked.replace("+", ",").split(","))
    for name in names:
        check_choice("granularity", name, GRANULARITIES)
    if len(set(names)) < len(names):
        raise ProtocolError(f"granularity {asked}: one is named twice")
    return names


def head_options(experiment: Experiment, head: str) -> Any:
    """The options of a member, with the experiment's settings where the head has such an option.

    Raises:
        ProtocolError: a setting that no member has, or a value of another type.
    """
    known = {f.name for member in members_of(experiment) for f in fields(HEADS[member.head].options)}
    unknown = sorted(set(experiment.settings) - known)
    if unknown:
        raise ProtocolError(f"no option {unknown[0]!r} of {experiment.head}; there are {', '.join(sorted(known))}")
    own = {f.name: f.type for f in fields(HEADS[head].options)}
    settings = {name: _typed(name, value, own[name]) for name, value in experiment.settings.items() if name in own}
    return HEADS[head].options(**settings)


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
