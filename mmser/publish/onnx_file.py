"""A trained head as an ONNX file that has been run and compared before it is there."""

import importlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from mmser import __version__
from mmser.errors import MmserError
from mmser.files import replacing
from mmser.heads.cnn14 import Cnn14
from mmser.heads.layers import Standardise
from mmser.publish.signature import BATCH, Answering, Input, inputs_of
from mmser.publish.trained import TrainedHead, open_trained

TOLERANCE = 1e-4
"""How far onnxruntime's answers may be from torch's, as a share of the largest value of an output."""

OLDEST_TORCH = "2.10"
"""Exporters before fix lengths (2.6), write what onnxruntime cannot run (2.8), or cannot write any head (2.9)."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

_SIZES = ((3, 7), (1, 1), (2, 150))
"""Utterances and steps that a file is tried on; the first is also what the graph is traced with (a size of 1 would be
taken for a constant)."""
_OUTPUTS = {
    "posteriors": "batch, classes: probability of each of labels, in their order",
    "ratings": "batch, dimensions: on the corpus's own scale, in the order of dimensions",
}


@dataclass(frozen=True)
class OnnxFile:
    """A file that was written."""

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: float
    """Largest difference between what onnxruntime and torch said, over all outputs and sizes that were tried."""


def export_onnx(folder: Path, path: Path) -> OnnxFile:
    """Write a trained head as one ONNX file with its weights inside, once onnxruntime says what torch says.

    Args:
        folder: of a head, ``runs/.../heads/<run>``.
        path: the file; a file that is there is replaced.

    Raises:
        MmserError: a package is not installed, the folder holds no such head, torch cannot export it, or the answers
            differ by more than :data:`TOLERANCE`. No file is then left.
    """
    check_installed()
    trained = open_trained(folder)
    inputs, answering = inputs_of(trained), Answering(trained).eval()
    generator = torch.Generator().manual_seed(0)
    trials = [_tensors(trained, inputs, *size, generator) for size in _SIZES]
    model = _exported(trained, answering, inputs, trials[0])
    _describe(model, trained, inputs)
    written = model.SerializeToString()
    difference = _compared(written, answering, trials, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(written)
    return OnnxFile(path, tuple(answering.names), tuple(answering.outputs), difference)


def check_installed() -> None:
    """Raise MmserError where a package of the extra ``onnx`` is missing, or torch is too old for it."""
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MmserError(f"ONNX files need the package {name}: pip install mmser[onnx] ({error})") from error
    if TorchVersion(torch.__version__) < OLDEST_TORCH:
        raise MmserError(
            f"ONNX files need torch {OLDEST_TORCH} or newer, and this is {torch.__version__}: pip install mmser[onnx]"
        )


def _exported(trained: TrainedHead, answering: Answering, inputs: Sequence[Input], tensors: tuple[Tensor, ...]) -> Any:
    free = tuple({place: axis for place, axis in enumerate(own.axes) if isinstance(axis, str)} for own in inputs)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                answering,
                tensors,
                dynamo=True,
                input_names=answering.names,
                output_names=answering.outputs,
                dynamic_shapes=(free,),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise MmserError(
            f"{trained.folder}: torch {torch.__version__} cannot write a {trained.kind} head as ONNX: {reason}"
        ) from error
    assert program is not None
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the exporter says of packages it could use, of torch's own deprecations and of its work."""
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # where --json writes
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)


def _describe(model: Any, trained: TrainedHead, inputs: Sequence[Input]) -> None:
    """Say in the model what it takes and gives, and drop the exporter's notes, which name files of this machine."""
    import onnx

    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        node.ClearField("metadata_props")
    # Of CNN14's poolings it names sizes that differ as one; onnxruntime finds them out for itself.
    model.graph.ClearField("value_info")
    for value, own in zip(model.graph.input, inputs, strict=True):
        value.doc_string = own.about
    for value in model.graph.output:
        value.doc_string = _OUTPUTS[value.name]
    about = trained.about
    facts = {
        "mmser": __version__,
        "head": trained.kind,
        "options": asdict(trained.head.options),
        "outputs": {value.name: _OUTPUTS[value.name] for value in model.graph.output},
        "labels": about.labels,
        "dimensions": about.dimensions,
        "speech_layers_of_encoder": about.speech_layers,
        "text_layers_of_encoder": about.text_layers,
        "normalise": about.normalise,
        "streams": about.read_streams,
    }
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in facts.items()})


def _compared(written: bytes, answering: Answering, trials: Sequence[tuple[Tensor, ...]], folder: Path) -> float:
    """The largest difference between onnxruntime and torch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    largest = 0.0
    for tensors in trials:
        given = {name: tensor.numpy() for name, tensor in zip(answering.names, tensors, strict=True)}
        said = session.run(answering.outputs, given)
        with torch.inference_mode():
            expected = answering(*tensors)
        for name, theirs, ours in zip(answering.outputs, said, expected, strict=True):
            difference = float((torch.from_numpy(theirs) - ours).abs().max())
            if not difference <= TOLERANCE * float(ours.abs().max()):  # nor where either is no number
                raise MmserError(
                    f"{folder}: onnxruntime {onnxruntime.__version__} and torch differ in {name} by {difference:.3g} "
                    f"on a batch of {len(ours)}; expected at most {TOLERANCE:g} of the largest value, "
                    f"{float(ours.abs().max()):.3g}. No file was written"
                )
            largest = max(largest, difference)
    return largest


def _tensors(
    trained: TrainedHead, inputs: Sequence[Input], batch: int, steps: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Random inputs that look like the training data: of each stream another length, and of several rows one empty."""
    lengths = {stream: steps + (place if steps > 1 else 0) for place, stream in enumerate(trained.streams)}
    moments = _moments(trained)
    found = []
    for own in inputs:
        free = {BATCH: batch, f"{own.stream}_steps": lengths[own.stream]}
        shape = [free[axis] if isinstance(axis, str) else axis for axis in own.axes]
        if own.name == own.stream:
            mean, deviation = moments[own.stream]
            found.append(mean + deviation * torch.randn(shape, generator=generator))
        elif own.dtype == torch.bool:
            valid = torch.randint(1, shape[1] + 1, (batch, 1), generator=generator)
            if batch > 1:
                valid[0], valid[-1] = shape[1], 0
            found.append(torch.arange(shape[1]) < valid)
        else:
            found.append(torch.randint(-1, 1 + shape[1] // 2, shape, generator=generator).to(own.dtype))
    return tuple(found)


def _moments(trained: TrainedHead) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Mean and deviation of each stream's values, as the head was told in training; they broadcast over steps."""
    found = {}
    for module in trained.head.modules():
        if isinstance(module, Standardise):
            name = module.stream if module.stream in ("text", "mel") else f"speech_{module.stream}"
            found[name] = (module.mean.unsqueeze(-2), module.std.unsqueeze(-2))
        elif isinstance(module, Cnn14):
            assert module.norm.running_mean is not None
            assert module.norm.running_var is not None
            found["mel"] = (module.norm.running_mean, module.norm.running_var.sqrt())
    return found
