"""When each option is read; one that is given where nothing reads it changes nothing, and a note says so.

What contradicts itself (members of what is no fusion, soft labels for ratings alone) is refused where it is read, and
not told here; all other options are always read.
"""

import shlex
from collections.abc import Sequence
from dataclasses import asdict

from mmser.heads import HEADS
from mmser.train.command import given_options
from mmser.train.layers import MIX
from mmser.train.members import Member, head_options, members_of
from mmser.train.options import Experiment
from mmser.train.stack import stacks


def unread_by_heads(members: Sequence[Member], *, text: bool, mel: bool) -> set[str]:
    """Fields of an experiment that say which states are read, of a kind that none of these heads reads.

    Args:
        members: the heads.
        text: whether one of them reads token states.
        mel: whether one of them reads log-mel frames.
    """
    hear = [member for member in members if HEADS[member.head].needs_speech]
    read = {
        "layer": bool(hear),
        "try_layers": bool(hear),
        "speech_stream": bool(hear),
        "granularity": any("@" not in member.name for member in hear),
        "text_layer": text,
        "text_stream": text,
        "mel_stream": mel,
    }
    return {name for name, is_read in read.items() if not is_read}


def unread_fields(experiment: Experiment) -> set[str]:
    """Fields of an experiment and of its training that nothing in it reads.

    >>> sorted(unread_fields(Experiment(head="text-probe", try_layers=("3", "9"))) & {"try_layers", "epochs"})
    ['try_layers']

    Raises:
        ProtocolError: a setting that no member has, or cannot take.
    """
    members, training = members_of(experiment), experiment.training
    readers = [(HEADS[member.head], head_options(experiment, member)) for member in members]
    hears = any(kind.needs_speech for kind, _ in readers)
    text = any(kind.reads_text(options) for kind, options in readers)
    mel = any(kind.reads_mel(options) for kind, options in readers)
    read = {
        "layer": not experiment.try_layers,
        "label": experiment.has_classes,
        "labels": experiment.has_classes,
        "class_weights": experiment.has_classes,
        "label_smoothing": experiment.has_classes,
        "dimensions": experiment.has_ratings,
        "dimension_weights": experiment.has_ratings,
        "categorical_weight": experiment.has_classes and experiment.has_ratings,
        "metric_temperature": training.metric_weight > 0,
        "dev_share": experiment.dev == "speaker",
        "dev_seed": experiment.dev == "speaker",
        "momentum": training.optimiser == "sgd",
        # Log-mel frames are never standardised so, and text never by speaker.
        "normalise": hears or (text and experiment.normalise != "speaker"),
        # Only heads that train one by one are shown crops.
        "crop_s": any(kind.reads_mel(options) and not stacks(kind.module) for kind, options in readers),
    }
    return {name for name, is_read in read.items() if not is_read} | unread_by_heads(members, text=text, mel=mel)


def unread_options(experiment: Experiment) -> str:
    """Options that were given and that nothing reads, as a command has them; "" where there are none.

    An option that has its default, or what its protocol sets, was not given.

    >>> unread_options(Experiment(head="text-probe", granularity="phone", layer="9", seeds=5))
    '--granularity phone --layer 9'
    """
    unread, given = unread_fields(experiment), given_options(asdict(experiment))
    words = [word for name, own in given.items() if name in unread for word in own]
    one_layer = experiment.try_layers or (experiment.layer != MIX and "," not in experiment.layer)
    if one_layer and experiment.settings.get("layers") == "experts":  # of moe: one a layer
        words += ["--set", "layers=experts"]
    return shlex.join(words)


def unread_notes(experiment: Experiment) -> list[str]:
    """What the user should know of :func:`unread_options`, in a sentence, if there are any."""
    told = unread_options(experiment)
    task = "" if experiment.task == "categorical" else f" ({experiment.task})"
    return [f"not read by {experiment.head}{task}: {told}"] if told else []
