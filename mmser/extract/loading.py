"""What loading a speech and a text encoder have in common: where it comes from, and proof of what it is."""

import hashlib
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from mmser.errors import EncoderError

# Parts of a checkpoint that no layer state depends on; a checkpoint may lack them.
_UNUSED = ("pooler.", "masked_spec_embed", "mask_emb")

COMPUTE = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The types of :data:`mmser.extract.options.COMPUTES`."""


@dataclass(frozen=True)
class Source:
    """Where an encoder comes from: ``ID``, ``ID@REVISION``, or a local folder."""

    given: str
    location: str
    revision: str | None

    @property
    def name(self) -> str:
        """What to call it in the cache: the hub id, or the folder's own name (never its path)."""
        return Path(self.location).resolve().name if Path(self.location).is_dir() else self.location


def parse_source(given: str) -> Source:
    """Split ``ID@REVISION``; an existing folder is taken as it is.

    >>> parse_source("facebook/wav2vec2-base@0b5b8e8").revision
    '0b5b8e8'
    """
    if Path(given).is_dir():
        return Source(given, given, None)
    location, _, revision = given.partition("@")
    return Source(given, location, revision or None)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the library's own progress bars and reports, which repeat what our errors say."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(before)
        transformers.logging.enable_progress_bar()


def load(source: Source, what: str, loader: Callable[..., Any], **options: Any) -> Any:
    """Call one of transformers' ``from_pretrained`` functions; no code from the model's repository is ever run.

    Raises:
        EncoderError: not found, not complete, or of no known architecture.
    """
    try:
        with quiet_transformers():
            return loader(source.location, revision=source.revision, trust_remote_code=False, **options)
    except pickle.UnpicklingError as error:
        raise EncoderError(
            f"{what} {source.given!r}: its checkpoint is a pickle of more than tensors, or damaged; pickles can run "
            "code and are not loaded: give a folder or revision with model.safetensors"
        ) from error
    except Exception as error:  # the library raises many kinds; each is the user's to know, none ours to interpret
        reason = " ".join(str(error).split())[:300]
        raise EncoderError(
            f"{what} {source.given!r} could not be loaded: {reason} (give a Hugging Face id such as "
            "facebook/wav2vec2-base, ID@REVISION, a folder with config.json and weights, or builtin:tiny)"
        ) from error


def load_model(source: Source, what: str, architecture: Any = transformers.AutoModel) -> nn.Module:
    """The model with its own weights, float32, for inference: the bare encoder, or another of transformers' classes.

    Raises:
        EncoderError: as :func:`load`; also where the checkpoint lacks weights, which would otherwise be random.
    """
    model, info = load(source, what, architecture.from_pretrained, output_loading_info=True, dtype=torch.float32)
    missing = sorted(k for k in info["missing_keys"] if not any(part in k for part in _UNUSED))
    if missing:
        raise EncoderError(
            f"{what} {source.given!r}: the checkpoint lacks {len(missing)} weights ({missing[0]}, ...), which would be "
            "random; give a complete checkpoint of this architecture"
        )
    return model.eval()


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes and values of all weights, in hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if any(part in name for part in _UNUSED):
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pick_layers(asked: str, num_layers: int) -> list[int]:
    """Which layers to keep, from ``all``, ``9``, ``0,6,12``, ``4-8``, ``-1`` (the last), or several of these.

    >>> pick_layers("0,10-12", 13), pick_layers("-1", 13)
    ([0, 10, 11, 12], [12])

    Raises:
        EncoderError: not understood, or not a layer of this encoder.
    """
    if asked.strip() == "all":
        return list(range(num_layers))
    layers: set[int] = set()
    for part in asked.split(","):
        first, dash, last = part.strip().rpartition("-")
        try:
            if dash and first:
                layers.update(range(int(first), int(last) + 1))
            else:
                layers.add(int(part) if int(part) >= 0 else num_layers + int(part))
        except ValueError as error:
            raise EncoderError(f"layers {asked!r}: expected e.g. all, 9, 0,6,12 or 4-8") from error
    outside = [layer for layer in layers if not 0 <= layer < num_layers]
    if outside or not layers:
        raise EncoderError(
            f"layers {asked!r}: this encoder has layers 0 (the input of its first block) to {num_layers - 1}"
        )
    return sorted(layers)


@dataclass(frozen=True)
class Drift:
    """How far states of lower precision lie from those of float32."""

    largest: float
    """Largest difference, as a share of the layer's largest value; of the worst layer."""
    cosine: float
    """Cosine between the two states of a frame or token, at the least similar one of any layer."""

    def __str__(self) -> str:
        return f"largest difference {self.largest:.2g} of the largest value, least cosine {self.cosine:.6f}"


def measure_drift(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> Drift:
    """The drift of some utterances' states (num_layers, rows, dim) against the same in float32."""
    pairs = [(f.float(), e.float()) for f, e in zip(found, expected, strict=True)]
    differences = torch.stack([(f - e).abs().amax(dim=(1, 2)) for f, e in pairs]).amax(dim=0)
    values = torch.stack([e.abs().amax(dim=(1, 2)) for _, e in pairs]).amax(dim=0)
    cosines = [torch.cosine_similarity(f.double(), e.double(), dim=-1).min() for f, e in pairs]
    return Drift(float((differences / values.clamp_min(1e-12)).max()), float(torch.stack(cosines).min()))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
