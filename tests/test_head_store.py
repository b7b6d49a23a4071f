"""Heads on disk: what goes in comes out, and a foreign or tampered folder is refused by name."""

import errno
import json
import os
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelHubMixin
from safetensors.torch import load_file, save_file
from test_heads import VARIANTS, a_batch, a_head

from mmser.errors import MmserError
from mmser.heads import HEADS, CoAttention, Head, SpeechProbe
from mmser.heads.store import load_head, save_head

CONFIG = {"labels": ["angry", "happy", "sad"], "layer": 9}


@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_a_head_comes_back_as_it_was(tmp_path: Path, kind: str, options: dict) -> None:
    head = a_head(kind, options)
    save_head(head, tmp_path / "run", CONFIG)
    before = torch.get_rng_state()
    loaded, config = load_head(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert (config["kind"], config["labels"], config["layer"]) == (kind, CONFIG["labels"], 9)
    assert (loaded.inputs, loaded.num_outputs, loaded.options) == (head.inputs, head.num_outputs, head.options)
    for name, value in head.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    # Not to the bit: where a file's tensors lie in memory decides over the order in which a product is summed.
    torch.testing.assert_close(loaded(a_batch(key=3)), head(a_batch(key=3)), rtol=1e-5, atol=1e-6)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.json", "model.safetensors"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_head(a_head("coattention", {"width": 16, "heads": 4}), tmp_path, CONFIG)
    return tmp_path


def test_the_heads_own_names_are_reserved(tmp_path: Path) -> None:
    with pytest.raises(MmserError, match="config may not set kind: the head itself says it; choose another name"):
        a_head("text-probe", {}).save_pretrained(tmp_path, kind="mine")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"push_to_hub": False}, "takes no push_to_hub: it writes a folder.* mmser hub push FOLDER OWNER/NAME"),
        ({"config": {"labels": []}}, r"takes no config: .*given by name \(labels=\.\.\., layer=\.\.\.\)"),
        ({"repo_id": "me/head", "model_card_kwargs": {}}, "takes no repo_id, model_card_kwargs"),
        ({"push_to_hub": True, "token": "hf_secret"}, "takes no push_to_hub, token"),
        ({"format": 2, "options": {}}, "config may not set format, options"),
        ({"layer": {9}}, r"config: layer cannot be kept as JSON \(Object of type set .*expected text, finite num"),
        ({"layer": 9, "ccc": float("nan")}, "config: ccc cannot be kept as JSON .Out of range float values"),
        ({"scale": {"ua": [float("inf")]}}, "config: scale cannot be kept as JSON .Out of range"),
        ({"mean": torch.ones(1)}, "config: mean cannot be kept as JSON .Object of type Tensor"),
    ],
)
def test_what_cannot_be_kept_beside_a_head_leaves_the_old_one(
    folder: Path, config: dict[str, Any], message: str
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(MmserError, match=message):
        a_head("text-probe", {}).save_pretrained(folder, **config)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_head_that_nothing_could_load_is_not_saved(tmp_path: Path) -> None:
    class Mine(CoAttention):
        """As somebody may write it in a notebook."""

    known = a_head("coattention", {"width": 16, "heads": 4})
    with pytest.raises(MmserError, match=r"Mine cannot be saved.* no head of mmser\.heads\.HEADS; give it an entry"):
        Mine(known.inputs, 3, known.options).save_pretrained(tmp_path / "mine")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "perceiver"}, "unknown kind of head 'perceiver'; known: speech-probe, text-probe, coattention"),
        ({"kind": ["coattention"]}, "unknown kind of head"),
        ({"format": 2}, "format 2; this version of mmser reads format 1"),
        ({"options": {"width": 16, "depth": 3}}, "options of coattention: unknown depth; known: width, heads"),
        ({"options": {"width": "16"}}, "width is '16'; expected <class 'int'>"),
        ({"options": {"dropout": 2.0}}, "dropout is 2; expected at least 0 and less than 1"),
        ({"options": None}, "options of coattention: found None, expected a JSON object"),
        ({"inputs": {"speech_dim": 12}}, "inputs: text_dim, granularities missing"),
        ({"num_outputs": 10**12}, "tensor classify.bias is float32 .3,., expected float32 .1000000000000,."),
        ({"num_outputs": True}, "num_outputs is True; expected a whole number"),
    ],
)
def test_a_config_that_lies_is_refused(folder: Path, change: dict, message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(MmserError, match=message):
        load_head(folder)


def test_missing_and_damaged_files_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(MmserError, match=r"model\.safetensors: not readable as safetensors"):
        load_head(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(MmserError, match=r"model\.safetensors: not readable as safetensors"):
        load_head(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(MmserError, match=r"config\.json: not readable as JSON"):
        load_head(folder)
    (folder / "config.json").unlink()
    with pytest.raises(MmserError, match=r"config\.json: no such file; expected the folder of a trained head"):
        load_head(folder)


@pytest.fixture
def umask() -> Iterator[int]:
    """One under which colleagues read and write."""
    before = os.umask(0o002)
    yield 0o002
    os.umask(before)


def test_colleagues_may_read_what_the_umask_lets_them(umask: int, folder: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys(("config.json", "model.safetensors"), 0o666 & ~umask)


def test_a_full_disk_is_an_oserror_and_leaves_the_old_head(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(path: Path, data: bytes) -> int:
        path.open("wb").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        save_head(a_head("coattention", {"width": 16, "heads": 4}), folder, CONFIG)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_file_that_may_not_be_read_is_not_called_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretended, for root may read all."""
    real = Path.open

    def refuse(path: Path, *args: Any, **more: Any) -> Any:
        if path.name == "model.safetensors":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MmserError, match=r"model\.safetensors: not readable as safetensors: .*Permission denied"):
        load_head(folder)


def test_tensors_of_another_type_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["classify.bias"] = weights["classify.bias"].half()
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(MmserError, match=r"tensor classify\.bias is float16 \(3,\), expected float32 \(3,\)"):
        load_head(folder)


# as on the hub


@pytest.mark.parametrize("kind", [kind for kind in HEADS if not HEADS[kind].needs_mel])  # those: test_system_b.py
def test_every_head_saves_and_loads_itself(tmp_path: Path, kind: str) -> None:
    head = a_head(kind, {})
    head.save_pretrained(tmp_path, **CONFIG)
    for loaded in (type(head).from_pretrained(tmp_path), Head.from_pretrained(str(tmp_path))):
        assert type(loaded) is HEADS[kind].module
        assert not loaded.training
        torch.testing.assert_close(loaded(a_batch()), head.eval()(a_batch()), rtol=1e-5, atol=1e-6)
    assert json.loads((tmp_path / "config.json").read_text())["labels"] == CONFIG["labels"]


def test_a_head_of_another_kind_is_refused(folder: Path) -> None:
    assert isinstance(CoAttention.from_pretrained(folder), CoAttention)
    with pytest.raises(MmserError, match="holds a CoAttention; expected a SpeechProbe"):
        SpeechProbe.from_pretrained(folder)


def test_pickled_weights_are_not_looked_at(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(MmserError, match=r"model\.safetensors: not readable as safetensors"):
        Head.from_pretrained(folder)


def test_a_repository_that_is_not_there_is_one_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    for name in ("nobody/no-such-head", "no/such/folder"):
        with pytest.raises(MmserError, match=f"head '{name}' could not be loaded: .*give a folder with config.json"):
            Head.from_pretrained(name)


CONVENTIONS = {
    "revision": "v2",
    "cache_dir": "elsewhere",
    "token": "hf_secret",
    "local_files_only": True,
    "force_download": True,
}
"""What ``ModelHubMixin.from_pretrained`` takes by name."""


def test_from_pretrained_takes_what_the_hubs_own_mixin_takes() -> None:
    theirs = signature(ModelHubMixin.from_pretrained).parameters.values()
    assert set(CONVENTIONS) == {one.name for one in theirs if one.kind == one.KEYWORD_ONLY}
    ours = signature(Head.from_pretrained).parameters
    assert next(iter(ours)) == next(one.name for one in theirs)
    assert {name: ours[name].default for name in CONVENTIONS} == {
        one.name: one.default for one in theirs if one.name in CONVENTIONS
    }


def test_save_pretrained_calls_its_folder_as_the_mixin_does_and_refuses_the_rest(tmp_path: Path) -> None:
    folder, *named = list(signature(ModelHubMixin.save_pretrained).parameters.values())[1:]
    head = a_head("text-probe", {})
    head.save_pretrained(**{folder.name: tmp_path / "head"})
    assert isinstance(Head.from_pretrained(pretrained_model_name_or_path=tmp_path / "head"), type(head))
    for one in named:
        if one.kind == one.KEYWORD_ONLY:
            with pytest.raises(MmserError, match=f"save_pretrained takes no {one.name}"):
                head.save_pretrained(tmp_path / "head", **{one.name: None})


@pytest.mark.parametrize("given", [{}, CONVENTIONS, {"revision": "main"}, {"token": False}])
def test_a_head_comes_from_the_hub_by_what_was_asked(
    monkeypatch: pytest.MonkeyPatch, folder: Path, given: dict[str, Any]
) -> None:
    """Two files are asked for and no others: of whatever else is in the repository nothing is fetched."""
    calls: list[dict[str, Any]] = []

    def snapshot(repository: str, **asked: Any) -> str:
        calls.append({"repository": repository, **asked})
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    head = Head.from_pretrained("somebody/some-head", **given)
    assert isinstance(head, CoAttention)
    assert not head.training
    nothing = {"revision": None, "cache_dir": None, "token": None, "local_files_only": False, "force_download": False}
    files = {"allow_patterns": ["config.json", "model.safetensors"]}
    assert calls == [{"repository": "somebody/some-head", **nothing, **given, **files}]
    with pytest.raises(MmserError, match="somebody/some-head holds a CoAttention; expected a SpeechProbe"):
        SpeechProbe.from_pretrained("somebody/some-head", **given)
    Head.from_pretrained(folder, **given)  # which is there: nobody is asked
    assert len(calls) == 2


def test_what_is_not_in_the_hubs_cache_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(MmserError, match=r"head 'nobody/no-such-head' could not be loaded: .*the hub says"):
        Head.from_pretrained("nobody/no-such-head", cache_dir=tmp_path, local_files_only=True)
