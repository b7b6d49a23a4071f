"""Published protocols by name: what they divide by, what mmser does of it, and where figures stop being comparable.

A preset is settings of :class:`~mmser.train.options.Experiment` and nothing more; whatever is set besides wins over
it. docs/protocol.md tells them at length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmser.checks import check_choice


@dataclass(frozen=True)
class Preset:
    """A protocol that papers name."""

    settings: Mapping[str, Any]
    """Fields of an experiment."""
    source: str
    """Where it was published, or whose habit it is."""
    done: str
    """What mmser does under this name."""
    traps: tuple[str, ...]
    """What makes figures differ that bear the same name."""


_IEMOCAP_4 = ("neu", "hap", "ang", "sad")

PRESETS: dict[str, Preset] = {
    "leave-one-session-out": Preset(
        settings={"folds": "session", "dev": "next"},
        source="most work on IEMOCAP (5 sessions) and MSP-IMPROV (6)",
        done="each session is test once, the next one is dev, the others train",
        traps=(
            "papers often choose the epoch on the test session, or take one of its two speakers for dev",
            "a dev session of its own leaves one session less to train on than papers that have none",
        ),
    ),
    "iemocap-loso": Preset(
        settings={"folds": "session", "dev": "next", "labels": _IEMOCAP_4},
        source="most work on IEMOCAP in 4 classes (5,531 utterances)",
        done="leave-one-session-out over neu, hap, ang, sad",
        traps=(
            "excitement counts as happiness: label set 4class-exc-as-hap of mmser manifest iemocap",
            "2,943 (improvised turns alone) and 4,490 (without excitement) are other tasks of the same four names",
            "papers often choose the epoch on the test session, or take one of its two speakers for dev",
        ),
    ),
    "msp-improv-loso": Preset(
        settings={"folds": "session", "dev": "next", "labels": ("N", "H", "S", "A")},
        source="most work on MSP-IMPROV in 4 classes (7,798 turns, 6 sessions)",
        done="leave-one-session-out over N, H, S, A",
        traps=("some leave out what was not improvised: look at the column condition",),
    ),
    "cmu-sentiment": Preset(
        settings={"folds": "split", "task": "dimensional", "dimensions": ("sentiment",)},
        source="the official parts of CMU-MOSI and CMU-MOSEI, by video",
        done="trains on train, selects on dev, tests on test; learns the sentiment by CCC loss",
        traps=(
            "the field reports MAE, Pearson's correlation and accuracies of the rounded rating, not CCC",
            "MOSEI's numbers of utterances differ between tools by some: name whose list you have",
        ),
    ),
    "leave-one-speaker-out": Preset(
        settings={"folds": "speaker", "dev": "next"},
        source="most work on EmoDB, SAVEE and RAVDESS; IEMOCAP in 10 folds",
        done="each speaker is test once, the next one is dev, the others train",
        traps=(
            "in IEMOCAP the speaker is the session and the letter of the id's last part, not its prefix Ses01F",
            "in IEMOCAP the speaker one is tested on has talked with one who trains",
        ),
    ),
    "superb": Preset(
        settings={"folds": "session", "dev": "speaker", "dev_share": 0.2, "labels": _IEMOCAP_4},
        source="SUPERB (Yang et al. 2021), IEMOCAP in 5 folds; s3prl downstream/emotion",
        done="each session is test once; of the 8 other speakers 2 are dev; 4 classes; look at WA, mean of folds",
        traps=(
            "SUPERB's dev part is a random fifth of the training utterances, by speakers who train too; here it is a "
            "fifth of the speakers, because parts must not share any, so dev scores are lower and mean more",
            "excitement counts as happiness: label set 4class-exc-as-hap of mmser manifest iemocap",
            "s3prl standardises no states and decays no weight (--normalise none --weight-decay 0); its rate is 1e-4",
            "the published figure is accuracy (WA), the mean over the folds",
        ),
    ),
    "emobox": Preset(
        settings={"folds": "session", "dev": "speaker", "dev_share": 0.2, "labels": _IEMOCAP_4},
        source="EmoBox (Ma et al. 2024), IEMOCAP in 5 folds; github.com/emo-box/EmoBox",
        done="each session is test once; of the 8 other speakers 2 are dev; 4 classes",
        traps=(
            "EmoBox's files give train and test parts of IEMOCAP, no dev part: how its epoch was chosen is not in them",
            "excitement counts as happiness: label set 4class-exc-as-hap of mmser manifest iemocap",
            "for other corpora take EmoBox's own folds as a column, with --folds; those of EmoDB, CREMA-D and TESS "
            "share speakers, and are refused",
        ),
    ),
    "msp-podcast": Preset(
        settings={"folds": "split", "test_split": "test1"},
        source="the corpus's own partitions (Lotfian and Busso 2019)",
        done="trains on Train, selects on Development, tests on Test1",
        traps=(
            "releases differ in size and in who is where: name the release",
            "Test1, Test2 and Test3 share speakers: they are never joined (--test-split test2 opens the other)",
            "speakers of part of Train are not known: nothing can check that they are in no other part",
            "4 classes (A, S, H, N) and 8 are both common: choose with --labels",
        ),
    ),
}
"""By the name that ``--protocol`` takes."""


def settings_of(protocol: str) -> Mapping[str, Any]:
    """The fields that a preset sets; none for "".

    >>> settings_of("leave-one-speaker-out")["folds"]
    'speaker'

    Raises:
        ProtocolError: no such preset.
    """
    if not protocol:
        return {}
    check_choice("protocol", protocol, PRESETS)
    return PRESETS[protocol].settings
