"""What a stored head says about itself: what it tells, what it reads, and what that was made by."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmser.cache import Stream
from mmser.cache.writer import difference
from mmser.errors import MmserError, ProtocolError
from mmser.heads import HEADS, Head, HeadKind
from mmser.heads.store import load_head
from mmser.records import TIERS
from mmser.train.options import NORMALISATIONS
from mmser.train.runs import find_runs

_FREE = ("layers", "granularities", "text_column")
"""Of a recipe: what more is stored, and which column the words stood in, says nothing about how states are made."""


@dataclass(frozen=True)
class About:
    """The part of a head's ``config.json`` that whoever asks it has to know."""

    path: Path
    """The folder."""
    kind: HeadKind
    reads_text: bool
    """Whether it reads token states."""
    reads_mel: bool
    """Whether it reads log-mel frames."""
    reads_links: bool
    """Whether it reads which word a state belongs to, or when it was spoken."""
    labels: tuple[str, ...]
    """The classes, by output."""
    dimensions: tuple[str, ...]
    """What the outputs after the classes' rate."""
    granularities: tuple[str, ...]
    """Of speech, in the order in which it reads them; empty for a head that hears none."""
    speech_layers: tuple[int, ...]
    """By the encoder's numbers."""
    text_layers: tuple[int, ...]
    """Likewise; empty for a head that reads no text."""
    normalise: str
    rating_mean: tuple[float, ...]
    """Ratings are its outputs times deviation, plus mean."""
    rating_deviation: tuple[float, ...]
    streams: Mapping[str, Mapping[str, Any]]
    """Recipe and provenance of the streams that the run read, by name; empty where an older mmser trained it."""
    best_epoch: int | None = None
    """The epoch that dev chose; 0 where training diverged before the first score; None where that is not known."""

    def stream(self, kind: str) -> str | None:
        """The name of the stream of a kind (``speech``, ``pooled``, ``opensmile``, ``text``, ``mel``, ``align``)."""
        return next((name for name in self.streams if name.split("/")[0] == kind), None)

    @property
    def read_kinds(self) -> dict[str, set[str]]:
        """The kinds of streams that it reads, with the granularities of speech that it takes from each."""
        found: dict[str, set[str]] = {}
        for granularity in self.granularities:
            kind = "speech" if granularity == "frame" else "pooled"
            found.setdefault(kind if self.stream(kind) else "opensmile", set()).add(granularity)
        beside = {"text": self.reads_text, "mel": self.reads_mel, "align": self.reads_links}
        return found | {kind: set() for kind, is_read in beside.items() if is_read}

    @property
    def read_streams(self) -> dict[str, Mapping[str, Any]]:
        """Of the run's streams, those that it reads itself: other members of a late fusion may read others."""
        read = [self.stream(kind) for kind in self.read_kinds]
        return {name: self.streams[name] for name in read if name is not None}

    def recipe(self, kind: str) -> Mapping[str, Any]:
        """The recipe of the stream of a kind; empty where that is not known."""
        name = self.stream(kind)
        return {} if name is None else self.streams[name]["recipe"]

    @property
    def is_untrained(self) -> bool:
        """Whether it has the random weights that training began with."""
        return self.best_epoch == 0

    @property
    def reads_alignment(self) -> bool:
        """Whether what it reads depends on an alignment: segments, or which word a state belongs to."""
        return bool(set(self.granularities) & set(TIERS)) or self.reads_links

    @property
    def needs_text(self) -> bool:
        """Whether it reads words, or an alignment of them."""
        return self.reads_text or self.reads_alignment

    @property
    def by_speaker(self) -> bool:
        """Whether the speech that it reads is standardised by what is there of each speaker."""
        return self.normalise == "speaker" and bool(self.granularities)

    def check(self, stream: Stream) -> None:
        """Refuse states that are not made as those that the head was trained on.

        Raises:
            ProtocolError: they are of other weights, another revision, aligner, pooling, ... (says which).
        """
        kind = stream.name.split("/")[0]
        if self.stream(kind) is None:
            return
        changed = differences(self.recipe(kind), stream.recipe)
        if not self.reads_alignment:
            changed = [phrase for phrase in changed if not phrase.startswith("aligner")]
        if changed:
            raise ProtocolError(
                f"{stream.folder}: {self.path} was trained on states of another recipe: {'; '.join(changed)}. Extract "
                "with the settings that the head was trained on, or train a head on these"
            )


def differences(stored: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What makes the states of two recipes differ, one phrase each.

    Encoders of the same weights are the same, whatever they are called; a local folder has no revision.

    >>> differences({"encoder": "a", "weights_sha256": "1", "layers": [1]}, {"encoder": "b", "weights_sha256": "1"})
    []
    >>> differences({"encoder": "a", "weights_sha256": "1"}, {"encoder": "a", "weights_sha256": "2"})
    ["weights_sha256 was '1', now '2'"]
    """
    free = set(_FREE)
    if stored.get("weights_sha256") is not None and stored.get("weights_sha256") == found.get("weights_sha256"):
        free |= {"encoder"} | ({"revision"} if None in (stored.get("revision"), found.get("revision")) else set())
    was, now = ({name: value for name, value in one.items() if name not in free} for one in (stored, found))
    return difference(was, now)


def load_about(folder: Path) -> tuple[Head, About]:
    """A head of a run and what it says about itself, checked: it may have come from anywhere.

    Raises:
        MmserError: it is missing, damaged or was not saved by a training.
        ProtocolError: it is the last layer of a late fusion, which reads what other heads see; or an ablation, or
            another folder of several runs.
    """
    _check_single(folder)
    head, config = load_head(folder)
    assert isinstance(head, Head)
    path, kind = folder / "config.json", HEADS[config["kind"]]
    if "features_of" in config:
        raise ProtocolError(
            f"{folder} is the last layer of a late fusion and reads what its members see; name the head of a member"
        )
    about = About(
        path=folder,
        kind=kind,
        reads_text=kind.reads_text(head.options),
        reads_mel=kind.reads_mel(head.options),
        reads_links=bool(kind.links(head.options)),
        labels=_listed(config, "labels", str, path),
        dimensions=_listed(config, "dimensions", str, path),
        granularities=head.inputs.granularities if kind.needs_speech else (),
        speech_layers=_listed(config, "speech_layers_of_encoder", int, path) if kind.needs_speech else (),
        text_layers=_listed(config, "text_layers_of_encoder", int, path) if kind.reads_text(head.options) else (),
        normalise=config.get("normalise", ""),
        rating_mean=_listed(config, "rating_mean", float, path),
        rating_deviation=_listed(config, "rating_deviation", float, path),
        streams=_streams(config.get("streams", {}), path),
        best_epoch=config.get("best_epoch"),
    )
    if about.normalise not in NORMALISATIONS:
        raise MmserError(f"{path}: normalise is {about.normalise!r}; expected one of {', '.join(NORMALISATIONS)}")
    if type(about.best_epoch) not in (int, type(None)):
        raise MmserError(f"{path}: best_epoch is {about.best_epoch!r}; expected a whole number: the file is damaged")
    for name, is_read, layers, expected in (
        ("speech", kind.needs_speech, about.speech_layers, head.inputs.speech_layers),
        ("text", about.reads_text, about.text_layers, head.inputs.text_layers),
    ):
        if is_read and len(layers) != expected:
            raise MmserError(f"{path}: {len(layers)} {name} layers for a head of {expected}; the file is damaged")
    num_outputs = len(about.labels) + len(about.dimensions)
    if num_outputs != head.num_outputs or {len(about.rating_mean), len(about.rating_deviation)} != {
        len(about.dimensions)
    }:
        raise MmserError(
            f"{path}: {len(about.labels)} labels and {len(about.dimensions)} dimensions for {head.num_outputs} "
            "outputs; the file is damaged"
        )
    return head, about


def _check_single(folder: Path) -> None:
    found = find_runs(folder) if folder.is_dir() and not (folder / "config.json").exists() else []
    if found:
        raise ProtocolError(
            f"{folder} holds {len(found)} runs; name one of them, such as {found[0]} (mmser runs list {folder} tells "
            "their figures), or a head of it"
        )


def _listed(config: Mapping[str, Any], name: str, kind: type, path: Path) -> tuple[Any, ...]:
    values, kinds = config.get(name), (int, float) if kind is float else (kind,)
    if not isinstance(values, list) or not all(type(value) in kinds for value in values):
        raise MmserError(f"{path}: {name} is {values!r}; expected a list, as mmser train-head writes it")
    return tuple(values)


def _streams(streams: Any, path: Path) -> dict[str, Mapping[str, Any]]:
    made = streams.values() if isinstance(streams, dict) else [None]
    for one in made:
        if not isinstance(one, dict) or not isinstance(one.get("recipe"), dict):
            raise MmserError(f"{path}: streams is {streams!r}; expected the recipe of each, by name")
        provenance = one.get("provenance", {})
        if not isinstance(provenance, dict):
            raise MmserError(f"{path}: the provenance of a stream is {provenance!r}; expected an object")
    return dict(streams)
