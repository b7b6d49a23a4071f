"""``mmser export``: every head as an ONNX file that says what torch says, whatever the batch."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from small_corpus import mmser
from test_heads import INPUTS, E, N, T, a_sequence
from test_system_b import BINS, NARROW, mel_of
from test_system_b import a_head as a_mel_head
from torch import Tensor, nn
from torch.torch_version import TorchVersion

import mmser as package
from mmser.errors import MmserError
from mmser.heads import HEADS
from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.heads.layers import Standardise
from mmser.heads.store import save_head
from mmser.publish import onnx_file
from mmser.publish.onnx_file import export_onnx

if TorchVersion(torch.__version__) < onnx_file.OLDEST_TORCH:
    pytest.skip("ONNX files need a newer torch", allow_module_level=True)

FACTS = {
    "labels": ["angry", "sad"],
    "dimensions": ["arousal"],
    "rating_mean": [3.0],
    "rating_deviation": [0.5],
    "normalise": "global",
}
OPTIONS = {
    "speech-probe": {"hidden": 4},
    "text-probe": {"hidden": 4, "pooling": "mean+std"},
    "coattention": {"positions": "word"},
    "crossmodal-transformer": {"blocks": 1, "positions": "time"},
    "moe": {"layers": "experts", "spectral": "mel"},
    **{kind: {"feedforward": False} for kind in ("cls-coattention", "mmer-cross")},
    "bayesian-coattention": {"feedforward": False, "prior": "lexicon"},
    "conditioned-states": {"blocks": 1, "pool": 2},
    "text-network": {"hidden": 4},
}
"""Between them what can be asked of a head: links, deviations, experts for layers, pooling in time."""
RICH = ("speech-probe", "moe")
"""Tried on two granularities of two layers each; the others on one of one, for time, and two text layers."""


def options_of(kind: str) -> dict[str, object]:
    known = HEADS[kind].options()
    small = {"width": 8, "heads": 2, "width_multiplier": NARROW}
    return {name: size for name, size in small.items() if hasattr(known, name)} | OPTIONS.get(kind, {})


def a_trained(folder: Path, kind: str, inputs: Inputs = INPUTS, **facts: object) -> nn.Module:
    """A head of two classes and a dimension, with statistics of its own, saved to ``folder``."""
    torch.manual_seed(0)
    if HEADS[kind].needs_mel:
        head = a_mel_head(kind, **options_of(kind))
    else:
        head = HEADS[kind].build(inputs, 3, HEADS[kind].options(**options_of(kind)))
    for module in head.modules():
        if isinstance(module, Standardise):
            module.mean.normal_()
            module.std.uniform_(0.5, 1.5)
    layers = {
        "speech_layers_of_encoder": list(range(head.inputs.speech_layers)),
        "text_layers_of_encoder": list(range(1, 1 + head.inputs.text_layers)),
    }
    save_head(head, folder, FACTS | layers | facts)
    return head.eval()


def batches_of(head: nn.Module) -> list[Batch]:
    """Padded with large numbers, with an empty row, and one utterance of one state."""
    found = []
    for lengths, extra in (([T, 3, 1, 2], 0), ([T, 0, 1, 2], 5), ([1], 0)):
        layers, count = head.inputs.speech_layers, len(lengths)
        sizes = [min(length, N) for length in lengths]
        speech = {
            name: a_sequence(lengths, max(lengths) + extra + place, head.inputs.speech_dim, layers, seed=place)
            for place, name in enumerate(head.inputs.granularities)
        }
        text = a_sequence(sizes, max(sizes) + 2 * extra, head.inputs.text_dim, head.inputs.text_layers, seed=9)
        mel = mel_of([[40, 3, 1, 90], [33, 0, 1, 2], [1]][len(found)][:count], extra)
        found.append(Batch(speech, text, None, mel))
    return found


def named(batch: Batch) -> dict[str, Tensor | None]:
    """The tensors of a batch by the names that the documentation gives them."""
    streams: dict[str, Sequence | None] = {f"speech_{name}": own for name, own in batch.speech.items()}
    found: dict[str, Tensor | None] = {}
    for stream, own in (streams | {"text": batch.text, "mel": batch.mel}).items():
        assert own is not None
        beside = {"mask": own.mask, "word_index": own.word, "time_s": own.time, "lexicon_weight": own.lexicon}
        found |= {stream: own.values} | {f"{stream}_{name}": tensor for name, tensor in beside.items()}
    return found


def said_by(session: onnxruntime.InferenceSession, batch: Batch) -> list[Tensor]:
    asked = [one.name for one in session.get_inputs()]
    return [torch.from_numpy(out) for out in session.run(None, {name: named(batch)[name].numpy() for name in asked})]


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_says_in_onnxruntime_what_it_says_in_torch(tmp_path: Path, kind: str) -> None:
    rich = {"speech_layers": 2, "text_layers": 3, "mel_dim": BINS}
    inputs = replace(INPUTS, **(rich if kind in RICH else {"granularities": ("word",), "text_layers": 2}))
    head = a_trained(tmp_path / "head", kind, inputs)
    written = export_onnx(tmp_path / "head", tmp_path / "made" / "head.onnx")
    content = written.path.read_bytes()
    assert [path.name for path in written.path.parent.iterdir()] == ["head.onnx"]
    assert str(Path(package.__file__).parent).encode() not in content
    session = onnxruntime.InferenceSession(content)
    assert [one.name for one in session.get_outputs()] == ["posteriors", "ratings"]
    for batch in batches_of(head):
        with torch.inference_mode():
            expected = head(batch)
        posteriors, ratings = said_by(session, batch)
        torch.testing.assert_close(posteriors, expected[:, :2].softmax(-1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ratings, 3.0 + 0.5 * expected[:, 2:], rtol=1e-4, atol=1e-5)
    assert 0 <= written.difference < 1e-4


# what is in the file


@pytest.fixture(scope="module")
def text_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head without ratings."""
    folder = tmp_path_factory.mktemp("text") / "heads" / "text-probe-fold0-seed0"
    labels = ["angry", "sad", 'fear"\n']
    streams = {"text/toy": {"recipe": {"encoder": "builtin:tiny", "layers": [0, 2]}}, "mel/toy": {"recipe": {}}}
    about = {"streams": streams}  # as of a run in which another member reads the second
    a_trained(folder, "text-probe", labels=labels, dimensions=[], rating_mean=[], rating_deviation=[], **about)
    return folder


def test_the_file_says_what_it_takes_and_gives(text_head: Path, tmp_path: Path) -> None:
    result = mmser("export", text_head, "--onnx", tmp_path / "text.onnx")
    assert result.exit_code == 0, result.output
    assert "takes   text, text_mask\ngives   posteriors\nonnxruntime and torch differ by " in result.stdout
    assert result.stderr == ""
    told = json.loads(mmser("export", text_head, "--onnx", tmp_path / "text.onnx", "--json").stdout)
    assert (told["inputs"], told["outputs"]) == (["text", "text_mask"], ["posteriors"])
    assert 0 <= told["difference"] < 1e-5
    model = onnx.load(tmp_path / "text.onnx", load_external_data=False)
    facts = {one.key: json.loads(one.value) for one in model.metadata_props}
    assert facts["labels"] == ["angry", "sad", 'fear"\n']
    assert facts["head"] == "text-probe"
    assert facts["streams"] == {"text/toy": {"recipe": {"encoder": "builtin:tiny", "layers": [0, 2]}}}
    assert facts["text_layers_of_encoder"] == [1]
    assert facts["outputs"] == {"posteriors": "batch, classes: probability of each of labels, in their order"}
    axes = [[axis.dim_param or axis.dim_value for axis in one.type.tensor_type.shape.dim] for one in model.graph.input]
    assert axes == [["batch", "text_steps", E], ["batch", "text_steps"]]


def test_a_head_that_only_rates(tmp_path: Path) -> None:
    scale = {"rating_mean": [0.0, 0.0, 0.0], "rating_deviation": [1.0, 1.0, 1.0]}
    a_trained(tmp_path / "head", "text-probe", labels=[], dimensions=["arousal", "valence", "dominance"], **scale)
    assert export_onnx(tmp_path / "head", tmp_path / "head.onnx").outputs == ("ratings",)


# what is refused


def test_a_file_that_differs_is_not_left(text_head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnx_file.Answering

    class Wrong(real):
        """Answers otherwise once it is exported."""

        def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
            off = 1e-3 if torch.compiler.is_compiling() else 0.0
            return tuple(own + off for own in super().forward(*tensors))

    monkeypatch.setattr(onnx_file, "Answering", Wrong)
    (tmp_path / "text.onnx").write_text("earlier")
    with pytest.raises(MmserError, match=r"differ in posteriors by 0\.001 on a batch of 3; expected at most 0\.0001"):
        export_onnx(text_head, tmp_path / "text.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["text.onnx"]
    assert (tmp_path / "text.onnx").read_text() == "earlier"


def test_without_the_extra_it_is_named(text_head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = mmser("export", text_head, "--onnx", tmp_path / "text.onnx")
    assert result.exit_code == 1
    assert "Error: ONNX files need the package onnxruntime: pip install mmser[onnx]" in result.stderr


def test_a_torch_that_is_too_old_is_named(text_head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    result = mmser("export", text_head, "--onnx", tmp_path / "text.onnx")
    assert result.exit_code == 1
    assert "ONNX files need torch 2.10 or newer, and this is 2.9.1+cu128: pip install mmser[onnx]" in result.stderr


def test_a_head_that_torch_cannot_export(text_head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.onnx.OnnxExporterError("long story\n") from ValueError("no such operator: sort\nmore")

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(MmserError, match=r"cannot write a text-probe head as ONNX: no such operator: sort$"):
        export_onnx(text_head, tmp_path / "text.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features_of": ["speech-probe", "film"]}, "the last layer of a late fusion and reads what its members see"),
        ({"labels": None}, r"config.json: labels is None; expected a list, as mmser train-head writes it"),
        ({"labels": ["angry"]}, "1 labels and 1 dimensions for 3 outputs"),
    ],
)
def test_a_head_that_does_not_say_what_it_says(tmp_path: Path, change: dict, message: str) -> None:
    a_trained(tmp_path, "text-probe", **change)
    with pytest.raises(MmserError, match=message):
        export_onnx(tmp_path, tmp_path / "head.onnx")


def test_a_run_folder_is_no_head(text_head: Path, tmp_path: Path) -> None:
    run = text_head.parent.parent
    with pytest.raises(MmserError, match=r"holds 1 heads, the first of them .*text-probe-fold0-seed0; name the folder"):
        export_onnx(run, tmp_path / "head.onnx")
    (tmp_path / "heads").mkdir()
    with pytest.raises(MmserError, match="which holds no finished head"):
        export_onnx(tmp_path, tmp_path / "head.onnx")
