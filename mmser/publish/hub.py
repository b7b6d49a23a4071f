"""A trained head as a repository on the Hugging Face hub: three files, and no others."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmser.errors import MmserError
from mmser.publish.card import card_of
from mmser.publish.trained import open_trained

FILES = ("config.json", "model.safetensors", "README.md")
"""All that goes up."""

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def write_repository(folder: Path, repo: str, into: Path) -> None:
    """Write what would be pushed, without asking the hub.

    Args:
        folder: of a head, ``runs/.../heads/<run>``.
        repo: ``OWNER/NAME``.
        into: the folder to write to; made if it is not there.

    Raises:
        MmserError: ``repo`` is no such name, or ``folder`` holds no such head.
    """
    if not _REPO.fullmatch(repo):
        raise MmserError(f"{repo!r} names no repository; expected OWNER/NAME, as in me/emotion-head")
    trained = open_trained(folder)
    card = card_of(trained, repo)
    into.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(folder / name, into / name)
    (into / "README.md").write_text(card, encoding="utf-8")


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Push a trained head to the hub, into a repository that is made if it is not there.

    Args:
        folder: of a head, ``runs/.../heads/<run>``.
        repo: ``OWNER/NAME``.
        private: whether nobody else may see it.

    Returns:
        The address of the repository.

    Raises:
        MmserError: as :func:`write_repository`; the hub cannot be reached or refuses; the repository is to be private,
            and is there and public.
    """
    from huggingface_hub import HfApi

    with TemporaryDirectory() as made:
        write_repository(folder, repo, Path(made))
        api = HfApi()
        url = _asked(repo, lambda: api.create_repo(repo, private=private or None, exist_ok=True))
        if private and not _asked(repo, lambda: api.repo_info(repo)).private:
            raise MmserError(f"{repo} is there already and is public; make it private on the hub, or name another")
        _asked(
            repo,
            lambda: api.upload_folder(
                repo_id=repo, folder_path=made, allow_patterns=list(FILES), commit_message="Push a head of mmser"
            ),
        )
    return str(url)


def _asked(repo: str, ask: Callable[[], Any]) -> Any:
    """What the hub answers."""
    # The base of all that its client raises, whichever of httpx's releases that is built on.
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        return ask()
    except (HTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise MmserError(
            f"{repo} could not be pushed to the hub: {reason} (log in with hf auth login, or set HF_TOKEN; --dry-run "
            "writes the files without the hub)"
        ) from error
