"""Loading encoders: what is refused and why, what never runs, and the digest that proves which weights were used."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_encoders import save_speech, save_text
from torch import nn
from transformers import AutoModel, Wav2Vec2FeatureExtractor

from mmser.errors import EncoderError
from mmser.extract.loading import Source, parse_source, pick_layers, weights_digest
from mmser.extract.speech import load_speech_encoder
from mmser.extract.text import load_text_encoder


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return save_speech(tmp_path / "my-wav2vec2", "wav2vec2-group")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return save_text(tmp_path / "my-bert", "bert")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def to_bin(folder: Path) -> dict[str, torch.Tensor]:
    """Take the safetensors away; returns the weights."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return weights


def test_sources() -> None:
    assert parse_source("facebook/wav2vec2-base") == Source("facebook/wav2vec2-base", "facebook/wav2vec2-base", None)
    pinned = parse_source("facebook/wav2vec2-base@0b5b8e8")
    assert (pinned.location, pinned.revision, pinned.name) == ("facebook/wav2vec2-base", "0b5b8e8", pinned.location)
    assert parse_source("bert@refs/pr/1").revision == "refs/pr/1"
    assert parse_source("bert@").revision is None


def test_a_folder_may_have_an_at_sign_and_gives_its_own_name_only(tmp_path: Path) -> None:
    folder = tmp_path / "secret" / "mine@v2"
    folder.mkdir(parents=True)
    source = parse_source(f"{folder}/")
    assert (source.location, source.revision, source.name) == (f"{folder}/", None, "mine@v2")


@pytest.mark.parametrize("load", [load_speech_encoder, load_text_encoder])
@pytest.mark.parametrize("given", ["nobody/no-such-model", "nobody/no-such-model@abc", "./no/such/folder", ""])
def test_what_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[str], object], given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncoderError, match=r"model '(nobody|\./no|').* could not be loaded: .*give a Hugging Face id"):
        load(given)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(speech: Path, file: str) -> None:
    (speech / file).unlink()
    with pytest.raises(EncoderError, match=r"speech model '.*my-wav2vec2' could not be loaded: "):
        load_speech_encoder(str(speech))


def test_a_text_model_is_no_speech_model_nor_the_reverse(speech: Path, text: Path) -> None:
    with pytest.raises(EncoderError, match=r"the processor of speech model '.*my-bert' could not be loaded"):
        load_speech_encoder(str(text))
    with pytest.raises(EncoderError, match=r"the tokenizer of text model '.*my-wav2vec2' could not be loaded"):
        load_text_encoder(str(speech))
    Wav2Vec2FeatureExtractor().save_pretrained(text)
    with pytest.raises(EncoderError, match=r"'my-bert' \(bert\) has no convolutional front end on waveforms"):
        load_speech_encoder(str(text))


def test_another_sampling_rate_is_refused(speech: Path) -> None:
    edit_json(speech / "preprocessor_config.json", sampling_rate=8000)
    with pytest.raises(EncoderError, match="expects 8000 Hz; mmser extracts at 16000 Hz"):
        load_speech_encoder(str(speech))


def test_missing_weights_are_refused_by_name_never_drawn(speech: Path, text: Path) -> None:
    for folder, lacking, load in (
        (speech, "encoder.layers.1.attention.k_proj.weight", load_speech_encoder),
        (text, "encoder.layer.2.output.dense.bias", load_text_encoder),
    ):
        weights = load_file(folder / "model.safetensors")
        del weights[lacking]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(EncoderError, match=rf"the checkpoint lacks 1 weights \({lacking}, .*give a complete check"):
            load(str(folder))  # type: ignore[operator]


def test_weights_of_another_shape_are_refused(speech: Path) -> None:
    weights = load_file(speech / "model.safetensors")
    weights["encoder.layer_norm.weight"] = torch.ones(31)
    save_file(weights, speech / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderError, match="could not be loaded"):
        load_speech_encoder(str(speech))


def test_the_mask_embedding_of_pre_training_may_be_missing(speech: Path) -> None:
    before = load_speech_encoder(str(speech)).identity()
    weights = load_file(speech / "model.safetensors")
    del weights["masked_spec_embed"]
    save_file(weights, speech / "model.safetensors", {"format": "pt"})
    assert load_speech_encoder(str(speech)).identity() == before


def test_a_half_precision_checkpoint_is_run_in_float32(speech: Path) -> None:
    AutoModel.from_pretrained(speech).half().save_pretrained(speech)
    encoder = load_speech_encoder(str(speech))
    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_bin_checkpoint_is_the_same_encoder(speech: Path, name: str) -> None:
    expected = load_speech_encoder(str(speech)).identity()
    weights = to_bin(speech)
    if name.endswith("bin"):
        torch.save(weights, speech / name)
    else:  # in another order of names
        save_file(dict(reversed(weights.items())), speech / name, {"format": "pt"})
    assert load_speech_encoder(str(speech)).identity() == expected


class _Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["torch", "torch legacy", "pickle"])
def test_a_malicious_bin_checkpoint_is_refused_and_runs_nothing(speech: Path, tmp_path: Path, how: str) -> None:
    proof = tmp_path / "proof"
    bad = {**to_bin(speech), "masked_spec_embed": _Bomb(proof)}
    target = speech / "pytorch_model.bin"
    if how == "pickle":
        target.write_bytes(pickle.dumps(bad))
    else:
        torch.save(bad, target, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(EncoderError, match=r"my-wav2vec2': its checkpoint is a pickle of more .* model\.safetensors"):
        load_speech_encoder(str(speech))
    assert not proof.exists()
    if how == "torch":  # the bomb is live: read without care it would go off
        torch.load(target, weights_only=False)
        assert proof.exists()


@pytest.mark.parametrize("model_type", ["wav2vec2", "evil"])
def test_code_in_a_model_folder_is_never_run(speech: Path, tmp_path: Path, model_type: str) -> None:
    proof = tmp_path / "proof"
    (speech / "evil.py").write_text(f"from pathlib import Path\nPath({str(proof)!r}).touch()\nclass Evil: pass\n")
    classes = dict.fromkeys(("AutoConfig", "AutoModel", "AutoFeatureExtractor"), "evil.Evil")
    edit_json(speech / "config.json", model_type=model_type, auto_map=classes)
    edit_json(speech / "preprocessor_config.json", auto_map=classes)
    if model_type == "evil":
        with pytest.raises(EncoderError, match="could not be loaded"):
            load_speech_encoder(str(speech))
    else:  # an architecture that transformers knows: its own code is used
        assert type(load_speech_encoder(str(speech)).model).__module__.startswith("transformers.")
    assert not proof.exists()


def test_code_of_a_tokenizer_is_never_run(text: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    (text / "evil.py").write_text(f"from pathlib import Path\nPath({str(proof)!r}).touch()\nclass Evil: pass\n")
    edit_json(
        text / "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    )
    tokens = load_text_encoder(str(text)).tokenize("a word")  # by tokenizer.json, which holds no code
    assert tokens.word.tolist() == [-1, 0, 1, -1]
    assert not proof.exists()


def test_the_digest_follows_every_weight_and_nothing_else(speech: Path) -> None:
    model = AutoModel.from_pretrained(speech)
    digest = weights_digest(model)
    assert digest == weights_digest(AutoModel.from_pretrained(speech))
    assert digest == load_speech_encoder(str(speech)).identity()["weights_sha256"]
    with torch.no_grad():
        model.masked_spec_embed.add_(1)  # of pre-training: no state depends on it
        assert weights_digest(model) == digest
        for name, weight in model.named_parameters():
            if name == "masked_spec_embed":
                continue
            last = weight.view(-1)[-1]
            kept = last.clone()
            last.copy_(torch.nextafter(kept, torch.tensor(9.0)))
            assert weights_digest(model) != digest, name
            last.copy_(kept)
    assert weights_digest(model) == digest


def test_the_digest_is_of_values_not_of_their_order_or_layout() -> None:
    a, b = nn.Linear(3, 4), nn.Linear(4, 2)
    one, other = nn.ModuleDict({"a": a, "b": b}), nn.ModuleDict({"b": b, "a": a})
    assert list(one.state_dict()) != list(other.state_dict())
    digest = weights_digest(one)
    assert weights_digest(other) == digest
    a.weight = nn.Parameter(a.weight.detach().t().contiguous().t())
    assert not a.weight.is_contiguous()
    assert weights_digest(one) == digest
    assert weights_digest(nn.ModuleDict({"a": b, "b": a})) != digest
    a.weight = nn.Parameter(a.weight.detach().reshape(2, 6))
    assert weights_digest(one) != digest  # the same bytes in another shape


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("all", list(range(13))),
        (" all ", list(range(13))),
        ("9", [9]),
        ("12,0, 6,6", [0, 6, 12]),
        ("4-8", [4, 5, 6, 7, 8]),
        ("0,10-12", [0, 10, 11, 12]),
        ("-1", [12]),
        ("-13,-1", [0, 12]),
    ],
)
def test_layers(asked: str, expected: list[int]) -> None:
    assert pick_layers(asked, 13) == expected


@pytest.mark.parametrize("asked", ["", "last", "1,,2", "1.5", "3-", "1--2", "4-x"])
def test_layers_not_understood(asked: str) -> None:
    with pytest.raises(EncoderError, match=r"expected e\.g\. all, 9, 0,6,12 or 4-8"):
        pick_layers(asked, 13)


@pytest.mark.parametrize("asked", ["13", "0,13", "10-13", "-14", "8-4"])
def test_layers_there_are_not(asked: str) -> None:
    with pytest.raises(EncoderError, match=rf"layers '{asked}': this encoder has layers 0 .* to 12"):
        pick_layers(asked, 13)
