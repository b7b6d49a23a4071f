"""What every head can do besides ``forward``: be saved, and come back."""

from pathlib import Path
from typing import Any

from torch import nn

from mmser.errors import MmserError
from mmser.heads.batch import Inputs


class Head(nn.Module):
    """Base of all heads. The names are those of Hugging Face's hub mixin, and so are the files.

    A folder holds ``config.json`` and ``model.safetensors``; nothing is unpickled, and no code comes with it.
    (``PyTorchModelHubMixin`` itself falls back to pickled weights where there are no others.)
    """

    inputs: Inputs
    num_outputs: int
    options: Any
    stacks: bool = True
    """Whether many runs of the head train as one; False where it moves buffers of its own, as batch norms do."""
    flat: bool = False
    """Whether it takes sequences whose states stand end to end (:mod:`mmser.heads.flat`)."""
    pools_first: bool = False
    """Whether it takes each sequence's mean (with an option ``pooling``: where that is ``mean``) before all else, so
    that means may stand for sequences of speech and text."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> "Head":
        """Load a head in evaluation mode; ``Head.from_pretrained`` takes one of any kind.

        Args:
            source: a local folder, such as ``runs/.../heads/<run>``, or the id of a repository on the Hugging Face hub.
            revision: branch, tag or commit of the repository.
            cache_dir: where the hub cache is, if not where it usually is.
            token: of an account that may read the repository; True: the one that is logged in; False: none.
            local_files_only: take what is in the cache, and ask nobody.
            force_download: fetch the files again although the cache has them.

        Raises:
            MmserError: the repository cannot be had, the files are missing or damaged, or hold another kind of head.
        """
        from mmser.heads.store import load_head  # which knows all heads, and so cannot be imported by one

        folder = Path(source)
        if not folder.is_dir():
            folder = download_head(
                str(source),
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                force_download=force_download,
            )
        head, _ = load_head(folder)
        if not isinstance(head, cls):
            raise MmserError(f"{source} holds a {type(head).__name__}; expected a {cls.__name__}")
        return head

    def save_pretrained(self, folder: str | Path, **config: Any) -> None:
        """Write ``config.json`` and ``model.safetensors``; ``config`` is what else a user must know (labels, layer)."""
        from mmser.heads.store import save_head

        save_head(self, Path(folder), config)


def download_head(repository: str, **asked: Any) -> Path:
    """The two files of a hub repository, from the local hub cache where they are there (``HF_HUB_OFFLINE=1``).

    ``asked``: what ``snapshot_download`` takes besides.

    Raises:
        MmserError: there is no such repository, or it cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(repository, **asked, allow_patterns=["config.json", "model.safetensors"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise MmserError(
            f"head {repository!r} could not be loaded: there is no such folder, and the hub says: {reason} (give a "
            "folder with config.json and model.safetensors, or the id of such a repository)"
        ) from error
    return Path(found)
