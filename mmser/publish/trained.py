"""A trained head as it is published: the module, and what it says about itself."""

from dataclasses import dataclass
from pathlib import Path

from mmser.errors import MmserError
from mmser.heads import HEADS, Head
from mmser.train.about import About, load_about


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """A head of a run folder, in evaluation mode. Its outputs are C logits, then K standardised ratings."""

    folder: Path
    head: Head
    about: About

    @property
    def kind(self) -> str:
        """The head's name in :data:`~mmser.heads.HEADS`."""
        return next(name for name, kind in HEADS.items() if kind is self.about.kind)

    @property
    def streams(self) -> list[str]:
        """The sequences that the head reads: ``speech_<granularity>``, ``text``, ``mel``."""
        beside = {"text": self.about.reads_text, "mel": self.about.reads_mel}
        return [f"speech_{name}" for name in self.about.granularities] + [name for name in beside if beside[name]]


def open_trained(folder: Path) -> TrainedHead:
    """Read a head that ``mmser train-head`` wrote.

    Raises:
        MmserError: the folder is that of a whole run; or as :func:`mmser.train.about.load_about`.
    """
    if (folder / "heads").is_dir():
        names = sorted(path.parent.name for path in (folder / "heads").glob("*/config.json"))
        found = f"{len(names)} heads, the first of them {folder / 'heads' / names[0]}" if names else "no finished head"
        raise MmserError(f"{folder} is the folder of a run, which holds {found}; name the folder of one head")
    return TrainedHead(folder, *load_about(folder))
