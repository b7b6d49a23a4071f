"""Which heads an experiment trains: the head that is named, or the members of a late fusion."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from mmser.checks import check_choice, did_you_mean
from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.records import GRANULARITIES
from mmser.train.options import Experiment, with_text_layer

FUSIONS: dict[str, tuple[str, ...]] = {"late-fusion": ("speech-probe", "text-probe")}
"""Late fusions by name, with the members they have unless told otherwise; ``Experiment.fusion`` is the rule."""

_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_RATES = ("learning_rate", "weight_decay")
"""Fields that hold a number, or several."""


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
    if experiment.fusion == "logistic" and experiment.has_ratings:
        raise ProtocolError(
            f"--fusion logistic is fitted on classes, and the task is {experiment.task}; take svm, dev-weighted, mean "
            "or concat"
        )
    named = experiment.members or FUSIONS.get(experiment.head, (experiment.head,))
    members = []
    for name in named:
        head, _, granularity = name.partition("@")
        check_choice("a member's head", head, HEADS)
        members.append(Member(name, head, granularities_of(granularity or experiment.granularity)))
    if len(set(named)) < len(named):
        raise ProtocolError(f"--members {','.join(named)}: a member is named twice")
    if experiment.head in FUSIONS and len(members) < 2:
        raise ProtocolError(
            f"--members {named[0]}: one head alone is no fusion; name several, or train it as --head {members[0].head}"
        )
    return members


def granularities_of(asked: str) -> tuple[str, ...]:
    """Granularities by name, several joined by a comma or, within a member, by a plus.

    >>> granularities_of("phone+word")
    ('phone', 'word')
    >>> granularities_of("phone, word")
    ('phone', 'word')

    Raises:
        ProtocolError: an unknown one, or one named twice.
    """
    names = tuple(name.strip() for name in asked.replace("+", ",").split(","))
    for name in names:
        check_choice("granularity", name, GRANULARITIES)
    if len(set(names)) < len(names):
        raise ProtocolError(f"granularity {asked}: one is named twice")
    return names


def settled(experiment: Experiment) -> Experiment:
    """The experiment as run folders keep it, the same whether it was asked for in text, in TOML or in Python.

    Settings are of their options' own types, and a rate that is alone is a number.

    >>> settled(Experiment(settings={"width": "64"}, learning_rate=(0.01,))).settings
    {'width': 64}

    Raises:
        ProtocolError: a setting that no member has, or a value of another type.
    """
    members = members_of(experiment)
    kinds = _kinds(experiment.settings, members)
    for name in experiment.settings:
        if name not in kinds:
            _refuse(name, experiment.head, members)
    own = {name: _typed(name, value, kinds[name]) for name, value in experiment.settings.items()}
    rates = {name: _number_if_alone(getattr(experiment, name)) for name in _RATES}
    return replace(experiment, settings=own, **rates)


def settled_like(stored: Mapping[str, Any], asked: Experiment) -> dict[str, Any]:
    """A stored experiment in the form of :func:`settled`, which older run folders lack, if it has the same heads.

    Raises:
        ProtocolError: a value that its option cannot have.
    """
    if stored.get("head") != asked.head or stored.get("members") != list(asked.members):
        return dict(stored)
    settings, stored = stored.get("settings"), with_text_layer(stored)
    found = {name: _number_if_alone(value) if name in _RATES else value for name, value in stored.items()}
    if isinstance(settings, Mapping):
        kinds = _kinds(settings, members_of(asked))
        found["settings"] = {n: _typed(n, value, kinds[n]) if n in kinds else value for n, value in settings.items()}
    return found


def _number_if_alone(rate: Any) -> Any:
    return rate[0] if isinstance(rate, (tuple, list)) and len(rate) == 1 else rate


def has_setting(member: Member, setting: str) -> bool:
    """Whether a setting is for a member: ``width`` is for all, ``MEMBER.width`` for those of that name or head.

    >>> member = Member("coattention@word", "coattention", ("word",))
    >>> [has_setting(member, name) for name in ("width", "coattention.width", "coattention@word.width", "film.width")]
    [True, True, True, False]
    """
    owner, _, option = setting.rpartition(".")
    return owner in ("", member.head, member.name) and option in _types(member)


def _types(member: Member) -> dict[str, Any]:
    """The type of each of its options."""
    return {own.name: own.type for own in fields(HEADS[member.head].options)}


def _kinds(settings: Iterable[str], members: Sequence[Member]) -> dict[str, Any]:
    """The type of each setting that a member has; None where two members do not agree about it."""
    kinds: dict[str, Any] = {}
    for name in settings:
        types = {_types(member)[name.rpartition(".")[2]] for member in members if has_setting(member, name)}
        if types:
            kinds[name] = types.pop() if len(types) == 1 else None
    return kinds


def _refuse(setting: str, head: str, members: Sequence[Member]) -> None:
    """Raise ProtocolError about a setting that no member has."""
    owner, _, option = setting.rpartition(".")
    meant = [member for member in members if owner in ("", member.head, member.name)]
    if not meant:
        names = [member.name for member in members]
        raise ProtocolError(
            f"--set {setting}: {owner!r} is no member of {head}{did_you_mean(owner, names)}; there are "
            f"{', '.join(names)}"
        )
    known = sorted({name for member in meant for name in _types(member)})
    raise ProtocolError(
        f"no option {option!r} of {owner or head}{did_you_mean(option, known)}; there are {', '.join(known) or 'none'}"
    )


def head_options(experiment: Experiment, member: Member) -> Any:
    """The options of a member: settings of its own before those of all members with its head, before those of all.

    Raises:
        ProtocolError: a setting that no member has, or a value that this one cannot take.
    """
    settings, types = settled(experiment).settings, _types(member)
    found: dict[str, tuple[str, Any]] = {}
    for owner in ("", member.head, member.name):
        named = {f"{owner}.{option}".lstrip("."): option for option in types}
        found |= {option: (name, settings[name]) for name, option in named.items() if name in settings}
    try:
        typed = {option: _typed(name, value, types[option]) for option, (name, value) in found.items()}
        return HEADS[member.head].options(**typed)
    except ProtocolError as error:
        alone = "; one member alone is set by --set MEMBER.NAME=VALUE" if experiment.head in FUSIONS else ""
        raise ProtocolError(f"{member.name}: {error}{alone}") from error


def check_words(members: Sequence[Member], options: Sequence[Any]) -> None:
    """Raise ProtocolError where a head that reads words or positions is to read states that belong to no word."""
    for member, own in zip(members, options, strict=True):
        kind = HEADS[member.head]
        if kind.needs_speech and kind.links(own) and "utterance" in member.granularities:
            raise ProtocolError(
                f"{member.name}: utterance states belong to no word of the transcript; a head that reads words or "
                "positions takes frame, phone, syllable or word states (--granularity)"
            )


def _typed(name: str, value: Any, kind: Any) -> Any:
    """A setting as its field wants it: from the command line it comes as text, and by 1 may be meant 1.0."""
    if kind not in (bool, int, float, str):
        return value
    try:
        typed = _TRUTHS[value.lower()] if kind is bool and isinstance(value, str) else kind(value)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"option {name}={value}: expected {kind.__name__}") from error
    if kind is not str and not isinstance(value, str) and typed != value:  # 8.5 for a width
        raise ProtocolError(f"option {name}={value}: expected {kind.__name__}")
    return typed
