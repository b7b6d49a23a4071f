"""What all heads have in common: a last layer, to say where they looked, to be saved, and to come back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmser.errors import MmserError
from mmser.heads.batch import Batch, Inputs
from mmser.heads.dropout import KeyedDropout

_OF_THE_MIXIN = ("push_to_hub", "config", "repo_id", "model_card_kwargs", "token")
"""What the hub mixin's ``save_pretrained`` takes by name: no facts about a head, and ``token`` is a secret."""


class Head(nn.Module):
    """Base of all heads: a linear layer on features, which loads and saves itself as Hugging Face's hub mixin does.

    Methods and files have the mixin's names. A folder holds ``config.json`` and ``model.safetensors``; nothing is
    unpickled, and no code comes with it. (``PyTorchModelHubMixin`` itself falls back to pickled weights where there are
    no others.) Unlike the mixin's, ``save_pretrained`` pushes nothing to the hub: ``mmser hub push`` does.
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
    summary_asks: bool = False
    """Whether in its attention between streams one vector asks that stands for a whole stream."""

    dropout: KeyedDropout
    classify: nn.Linear

    def __init__(self, inputs: Inputs, num_outputs: int, options: Any) -> None:
        """Of a subclass: then its layers, ``dropout``, ``classify``, and ``number_dropouts(self)`` at the end."""
        super().__init__()
        self.inputs, self.num_outputs, self.options = inputs, num_outputs, options

    def forward(self, batch: Batch) -> Tensor:
        """Outputs (B, num_outputs): one linear layer on what :meth:`features` finds, after dropout."""
        return self.classify(self.dropout(self.features(batch), batch.key))

    def features(self, batch: Batch) -> Tensor:
        """What the last layer sees (B, classify.in_features); every head has its own."""
        raise NotImplementedError

    def attentions(self) -> dict[str, str]:
        """Paths of each :class:`~mmser.heads.attention.Attention` between speech and text; empty where there is none.

        By ``"<granularity>.<block>.<direction>"``, ``speech_to_text`` where speech asks text and ``text_to_speech``.
        """
        return {}

    def forward_with_attention(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs for a batch that is not flat, and who looked where.

        Returns:
            Outputs (B, num_outputs), and weights by the names of :meth:`attentions`: ``speech_to_text``
            (B, heads, T, N), in which each speech segment's weights over the tokens sum to 1, and ``text_to_speech``
            (B, heads, N, T) the other way round. Where one state or summary asks, its weights alone.
        """
        paths, seen = self.attentions(), dict[str, Tensor]()

        def keep(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, found: tuple[Tensor, list[Tensor]]) -> None:
                (seen[name],) = found[1]

            return hook

        hooks = [self.get_submodule(path).register_forward_hook(keep(name)) for name, path in paths.items()]
        try:
            outputs = self(batch)
        finally:
            for one in hooks:
                one.remove()
        return outputs, {name: seen[name] for name in paths}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> "Head":
        """Load a head in evaluation mode; ``Head.from_pretrained`` takes one of any kind.

        Args:
            pretrained_model_name_or_path: a local folder, such as ``runs/.../heads/<run>``, of which what follows asks
                nothing; or the id of a repository on the Hugging Face hub.
            revision: branch, tag or commit of the repository.
            cache_dir: where the hub cache is, if not where it usually is.
            token: of an account that may read the repository; True: the one that is logged in; False: none.
            local_files_only: take what is in the cache, and ask nobody.
            force_download: fetch the files again although the cache has them.

        Raises:
            MmserError: the repository cannot be had, the files are missing or damaged, or hold another kind of head.
        """
        from mmser.heads.store import load_head  # which knows all heads, and so cannot be imported by one

        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = download_head(
                str(pretrained_model_name_or_path),
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                force_download=force_download,
            )
        head, _ = load_head(folder)
        if not isinstance(head, cls):
            found = f"{pretrained_model_name_or_path} holds a {type(head).__name__}"
            raise MmserError(f"{found}; expected a {cls.__name__}")
        return head

    def save_pretrained(self, save_directory: str | Path, **config: Any) -> None:
        """Write ``config.json`` and ``model.safetensors``; a head that is there is replaced.

        Args:
            save_directory: the folder; made if it is not there.
            config: what else a user must know (``labels=["angry", "sad"]``, ``layer=9``), as JSON can hold it; not the
                names that are the head's own in ``config.json`` (format, kind, inputs, num_outputs, options), nor what
                the hub's mixin takes by name.

        Raises:
            MmserError: a name that ``config`` may not have, a value that JSON cannot hold, or a head of a class that is
                not in :data:`mmser.heads.HEADS`. Nothing is written then.
        """
        from mmser.heads.store import save_head

        asked = [name for name in _OF_THE_MIXIN if name in config]
        if asked:
            raise MmserError(
                f"save_pretrained takes no {', '.join(asked)}: it writes a folder, and what else a user must know is "
                "given by name (labels=..., layer=...); to share the folder: mmser hub push FOLDER OWNER/NAME"
            )
        save_head(self, Path(save_directory), config)


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
