"""A trained head as a function of tensors by name, each with its axes: what an ONNX file is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.heads.cnn14 import LEAST_FRAMES
from mmser.publish.trained import TrainedHead

BATCH = "batch"
"""The axis that all inputs share."""

_ABOUT = {
    "speech": "speech states: batch, steps, width; batch, layers, steps, width where the head mixes layers",
    "text": "token states: batch, steps, width; batch, layers, steps, width where the head mixes layers",
    "mel": "log-mel frames in decibels: batch, steps, bins",
}

_LINKS = {
    "word": ("word_index", torch.int64, "word of the transcript that a state belongs to, from 0; -1: none"),
    "time": ("time_s", torch.float32, "middle of a state in seconds of the utterance; -1: not known"),
    "lexicon": ("lexicon_weight", torch.float32, "weight of a state's word in the emotion lexicon; 0: not in it"),
}
"""By the names of :data:`mmser.heads.batch.LINKS`."""


@dataclass(frozen=True)
class Input:
    """One tensor that a head takes."""

    name: str
    stream: str
    """The sequence that it belongs to; its values have its name."""
    axes: tuple[str | int, ...]
    """A name where the size is free, the size where it is not."""
    dtype: torch.dtype
    about: str
    """In words."""


def inputs_of(trained: TrainedHead) -> list[Input]:
    """What a head takes, in order: of each sequence its values and mask, and the words or times that it asks for."""
    links = trained.about.kind.links(trained.head.options)
    found = []
    for stream in trained.streams:
        steps = (BATCH, f"{stream}_steps")
        about = f"{_ABOUT[stream.split('_')[0]]}; finite in the padding"
        found.append(Input(stream, stream, _axes_of_values(stream, trained.head.inputs), torch.float32, about))
        about = "true where there is a state; a row may be empty"
        found.append(Input(f"{stream}_mask", stream, steps, torch.bool, about))
        if stream != "mel":
            found += [
                Input(f"{stream}_{name}", stream, steps, dtype, about)
                for link, (name, dtype, about) in _LINKS.items()
                if link in links
            ]
    return found


def _axes_of_values(stream: str, inputs: Inputs) -> tuple[str | int, ...]:
    steps = f"{stream}_steps"
    if stream == "mel":
        return BATCH, steps, inputs.mel_dim
    is_text = stream == "text"
    layers = inputs.text_layers if is_text else inputs.speech_layers
    return BATCH, *((layers,) if layers > 1 else ()), steps, inputs.text_dim if is_text else inputs.speech_dim


class Answering(nn.Module):
    """Tensors in the order of :func:`inputs_of` to ``posteriors`` and ``ratings``, those that the head gives.

    Posteriors (B, C) sum to 1; ratings (B, K) are on the corpus's own scale.
    """

    rating_mean: Tensor
    rating_deviation: Tensor

    def __init__(self, trained: TrainedHead) -> None:
        super().__init__()
        self.head, self.streams = trained.head, trained.streams
        self.names = [one.name for one in inputs_of(trained)]
        self.num_classes = len(trained.about.labels)
        self.outputs = [
            *(["posteriors"] if trained.about.labels else []),
            *(["ratings"] if trained.about.dimensions else []),
        ]
        self.register_buffer("rating_mean", torch.tensor(trained.about.rating_mean))
        self.register_buffer("rating_deviation", torch.tensor(trained.about.rating_deviation))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in the order of ``self.outputs``."""
        said = self.head(self._batch(dict(zip(self.names, tensors, strict=True))))
        found = {
            "posteriors": said[:, : self.num_classes].softmax(-1),
            "ratings": said[:, self.num_classes :] * self.rating_deviation + self.rating_mean,
        }
        return tuple(found[name] for name in self.outputs)

    def _batch(self, given: Mapping[str, Tensor]) -> Batch:
        def sequence(stream: str) -> Sequence:
            links: dict[str, Any] = {link: given.get(f"{stream}_{name}") for link, (name, _, _) in _LINKS.items()}
            return Sequence(given[stream], given[f"{stream}_mask"], **links)

        read = {stream: sequence(stream) for stream in self.streams}
        mel, text = read.pop("mel", None), read.pop("text", None)
        speech = {stream.removeprefix("speech_"): sequence for stream, sequence in read.items()}
        return Batch(speech, text, None, None if mel is None else _long_enough(mel))


def _long_enough(mel: Sequence) -> Sequence:
    """More padding, which changes nothing, so that a graph need not ask whether CNN14 has the frames it takes."""
    return Sequence(F.pad(mel.values, (0, 0, 0, LEAST_FRAMES)), F.pad(mel.mask, (0, LEAST_FRAMES)))
