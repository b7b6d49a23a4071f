"""From a corpus's folder to a table of trained heads, by the commands that its page shows; on miniatures."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score
from small_corpus import mmser
from small_speech import write_noise, write_text

EXIT_PROBLEMS = 4


@dataclass(frozen=True)
class Expected:
    """An utterance as the corpus's own files tell of it."""

    label: str
    speaker: str
    fold: str


def iemocap(folder: Path) -> dict[str, Expected]:
    """Both speakers of each session in four classes, one of them by excitement; and turns that are of no class."""
    expected = {}
    emotions = {"neu": "neu", "exc": "hap", "ang": "ang", "sad": "sad", "fru": "", "xxx": ""}
    for session in range(1, 6):
        home, dialogue = folder / f"Session{session}", f"Ses0{session}F_impro01"
        turns, spoken = [], []
        for letter in "FM":
            for number, (emotion, label) in enumerate(emotions.items()):
                uid = f"{dialogue}_{letter}{number:03d}"
                turns.append(
                    f"[{number}.0 - {number}.5]\t{uid}\t{emotion}\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\n"
                )
                spoken.append(f"{uid} [000.0000-000.5000]: Well, {letter} number {number}.\n")
                write_noise(home / "sentences" / "wav" / dialogue / f"{uid}.wav")
                if label:
                    expected[uid] = Expected(label, f"Ses0{session}_{letter}", f"Ses0{session}")
        write_text(home / "dialog" / "EmoEvaluation" / f"{dialogue}.txt", "\n".join(["% [START_TIME ...]\n", *turns]))
        write_text(home / "dialog" / "transcriptions" / f"{dialogue}.txt", "".join(spoken))
    return expected


def ravdess(folder: Path) -> dict[str, Expected]:
    names = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    expected = {}
    for actor in ("01", "02", "03"):
        for number, label in enumerate(names, 1):
            uid = f"03-01-{number:02d}-01-0{1 + number % 2}-01-{actor}"
            write_noise(folder / f"Actor_{actor}" / f"{uid}.wav", rate=48_000, channels=2 if number == 1 else 1)
            expected[uid] = Expected(label, actor, actor)
    return expected


def esd(folder: Path) -> dict[str, Expected]:
    blocks = ("Neutral", "Angry", "Happy", "Sad", "Surprise")
    expected = {}
    for speaker, encoding in (("0011", "utf-8"), ("0012", "utf-16"), ("0016", "latin-1"), ("0001", "gb2312")):
        lines = []
        for block, label in enumerate(blocks):
            for part, number in (("train", 40), ("evaluation", 1)):
                uid = f"{speaker}_{350 * block + number:06d}"
                write_noise(folder / speaker / label / part / f"{uid}.wav")
                lines.append(f"{uid}\tThe nine the eggs.\t{label}\n")
                if speaker != "0001":  # who speaks Mandarin
                    expected[uid] = Expected(label, speaker, speaker)
        write_text(folder / speaker / f"{speaker}.txt", "".join(lines), encoding)
    return expected


def msp_podcast(folder: Path) -> dict[str, Expected]:
    """Four classes in each part, by speakers of their own; a turn without agreement, and one without a label."""
    rows, expected = ["FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"], {}
    for number, part in enumerate(("Train", "Development", "Test1", "Test2"), 1):
        for turn, code in enumerate("ASHNX"):
            uid = f"MSP-PODCAST_{number:04d}_{turn:04d}"
            rows.append(f"{uid}.wav,{code},4.0,{turn + 1}.5,4.0,{number},Male,{part}\n")
            write_noise(folder / "Audios" / f"{uid}.wav")
            write_text(folder / "Transcripts" / f"{uid}.txt", "So, that is it.\n")
            if part == "Test1" and code != "X":
                expected[uid] = Expected(code, str(number), "test1")
    write_text(folder / "Labels" / "labels_consensus.csv", "".join(rows))
    write_text(folder / "Partitions.txt", "Test3; MSP-PODCAST_0009_0001.wav\n")
    return expected


def msp_improv(folder: Path) -> dict[str, Expected]:
    blocks, expected = [], {}
    for session in range(1, 7):
        sex = "FM"[session % 2]
        for code in "NHSA":
            uid = f"MSP-IMPROV-S01{code}-{sex}0{session}-P-FM01"
            blocks.append(
                f"{uid.replace('MSP', 'UTD')}.avi; {code}; A:2.8; V:3.0; D:2.8 ; N:3.2;\n"
                f"rater-p3; Neutral; Neutral; A:3.0; V:3.0; D:NaN; N:4.0;\n"
            )
            write_noise(folder / "Audio" / f"session{session}" / "S01" / "P" / f"{uid}.wav", rate=48_000)
            write_text(folder / "All_human_transcriptions" / f"{uid}.txt", "How can I not?\n")
            expected[uid] = Expected(code, f"{sex}0{session}", str(session))
    write_text(folder / "Evaluation.txt", "\n".join(blocks))
    return expected


def emodb(folder: Path) -> dict[str, Expected]:
    letters = {
        "W": "anger",
        "L": "boredom",
        "E": "disgust",
        "A": "fear",
        "F": "happiness",
        "T": "sadness",
        "N": "neutral",
    }
    expected = {}
    for speaker in ("03", "08", "09"):
        for letter, label in letters.items():
            write_noise(folder / "wav" / f"{speaker}a01{letter}a.wav")
            expected[f"{speaker}a01{letter}a"] = Expected(label, speaker, speaker)
    return expected


@dataclass(frozen=True)
class Miniature:
    """A corpus in miniature, and the commands that its page shows for it."""

    build: Callable[[Path], dict[str, Expected]]
    protocol: str
    labels: str = ""
    published: int = 0
    """How many utterances the doctor says there should be; 0: it depends on the release."""


MINIATURES = {
    "iemocap": Miniature(iemocap, "iemocap-loso", published=5_531),
    "ravdess": Miniature(ravdess, "leave-one-speaker-out", published=1_440),
    "esd": Miniature(esd, "leave-one-speaker-out", "english", 17_500),
    "msp-podcast": Miniature(msp_podcast, "msp-podcast", "4class"),
    "msp-improv": Miniature(msp_improv, "msp-improv-loso", published=7_798),
    "emodb": Miniature(emodb, "leave-one-speaker-out", published=535),
}


def ended(code: int, *arguments: object) -> str:
    """Run a command that has to end with a code; what it printed."""
    result = mmser(*arguments)
    assert result.exit_code == code, result.output
    return result.stdout + result.stderr


def extract(manifest: Path, cache: Path) -> None:
    encoders = ("--speech-model", "builtin:tiny", "--text-model", "builtin:tiny")
    ended(0, "extract", manifest, "--cache", cache, *encoders, "--align", "none", "--keep", "utterance")


LATE_FUSION = ("--head", "late-fusion", "--granularity", "utterance", "--epochs", 2, "--seeds", 1)


@pytest.mark.parametrize("name", MINIATURES)
def test_a_folder_becomes_a_table(name: str, tmp_path: Path) -> None:
    corpus = MINIATURES[name]
    expected = corpus.build(tmp_path / "corpus")
    manifest, cache, run = tmp_path / f"{name}.csv", tmp_path / "cache", tmp_path / "run"
    labels = ("--labels", corpus.labels) if corpus.labels else ()
    ended(0, "manifest", name, tmp_path / "corpus", *labels, "--out", manifest)
    extract(manifest, cache)
    told = ended(EXIT_PROBLEMS if corpus.published else 0, "doctor", manifest, "--cache", cache)
    if corpus.published:
        assert f"expected {corpus.published} as published" in told
    assert "are not in" not in told  # the cache has everyone

    table = ended(0, "train-head", cache, "--protocol", corpus.protocol, *LATE_FUSION, "--out", run)
    predictions = pd.read_csv(run / "predictions.csv", dtype=str)
    for head in ("speech-probe", "text-probe", "late-fusion"):
        own = predictions[predictions["head"] == head]
        tested = {row["utterance_id"]: Expected(row["truth"], row["speaker"], row["fold"]) for _, row in own.iterrows()}
        assert tested == expected
        assert len(own) == len(expected)
        figure = re.search(rf"^{head} +([\d.]+)", table, re.MULTILINE)
        assert figure is not None
        ua = balanced_accuracy_score(own["truth"], own["prediction"])
        assert float(figure[1]) == pytest.approx(ua, abs=6e-4)


MELD = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\r\n"
EMOTIONS = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")


def test_meld_trains_only_without_its_speakers(tmp_path: Path) -> None:
    """Its parts share them: that is refused, until the column is called otherwise, as its page says."""
    homes = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
    for part, home in homes.items():
        rows = []
        for number, emotion in enumerate(EMOTIONS):
            write_noise(tmp_path / "MELD.Raw" / part / home / f"dia0_utt{number}.wav")
            who = "Chandler" if number else "All"
            told = f'{who},{emotion},neutral,0,{number},8,21,"0:00:01,000","0:00:02,000"'
            rows.append(f'{number},"Oh, {emotion}\u2019s it.",{told}\r\n')
        write_text(tmp_path / "MELD.Raw" / f"{part}_sent_emo.csv", MELD + "".join(rows))
    manifest, cache = tmp_path / "meld.csv", tmp_path / "cache"
    ended(0, "manifest", "meld", tmp_path / "MELD.Raw", "--out", manifest)
    told = ended(EXIT_PROBLEMS, "doctor", manifest)
    assert "2 speakers are in several parts of the split: 'All', 'Chandler'" in told
    extract(manifest, cache)
    refused = ended(1, "train-head", cache, "--folds", "split", *LATE_FUSION, "--out", tmp_path / "run")
    assert "speaker 'All' is in" in refused
    assert "folds must not share speakers" in refused

    parts = tmp_path / "meld-parts.csv"
    parts.write_text(
        re.sub(",speaker,", ",character,", manifest.read_text(encoding="utf-8"), count=1), encoding="utf-8"
    )
    extract(parts, tmp_path / "cache-parts")
    table = ended(
        0, "train-head", tmp_path / "cache-parts", "--folds", "split", *LATE_FUSION, "--out", tmp_path / "run"
    )
    assert "late-fusion" in table
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert set(predictions["utterance_id"]) == {f"test_dia0_utt{number}" for number in range(len(EMOTIONS))}


def test_cmu_mosi_is_rated(tmp_path: Path) -> None:
    rows = ["video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"]
    for video, part in (("a", "train"), ("b", "train"), ("c", "valid"), ("d", "test")):
        for clip, sentiment in enumerate((-2.4, -0.6, 0.0, 1.8), 1):
            rows.append(f"{video},{clip},A FILM OF {clip},{sentiment},,,,,{part}\n")
            write_noise(tmp_path / "MOSI" / "Raw" / video / f"{clip}.wav")
    write_text(tmp_path / "MOSI" / "label.csv", "".join(rows))
    ended(0, "manifest", "cmu-mosi", tmp_path / "MOSI", "--out", tmp_path / "mosi.csv")
    extract(tmp_path / "mosi.csv", tmp_path / "cache")
    run = tmp_path / "run"
    table = ended(0, "train-head", tmp_path / "cache", "--protocol", "cmu-sentiment", *LATE_FUSION, "--out", run)
    assert "sentiment" in table
    predictions = pd.read_csv(run / "predictions.csv")
    assert set(predictions["utterance_id"]) == {"d_1", "d_2", "d_3", "d_4"}


def test_tess_has_too_few_speakers_and_serves_beside_another_corpus(tmp_path: Path) -> None:
    for speaker in ("OAF", "YAF"):
        for label in ("angry", "happy"):
            for word in ("back", "bite", "boat"):
                write_noise(tmp_path / "TESS" / f"{speaker}_{label}" / f"{speaker}_{word}_{label}.wav", rate=24_414)
    manifest = tmp_path / "tess.csv"
    ended(0, "manifest", "tess", tmp_path / "TESS", "--out", manifest)
    extract(manifest, tmp_path / "cache")
    leave_one_out = ("--protocol", "leave-one-speaker-out", *LATE_FUSION)
    refused = ended(1, "train-head", tmp_path / "cache", *leave_one_out, "--out", tmp_path / "run")
    assert "has 2 different values (OAF, YAF); leaving one out for test and one for dev takes at least 3" in refused

    other = pd.read_csv(manifest)
    for column in ("utterance_id", "speaker"):
        other[column] = "other-" + other[column]
    other["corpus"] = "other"
    joined = tmp_path / "joined.csv"
    pd.concat([pd.read_csv(manifest), other]).to_csv(joined, index=False)
    extract(joined, tmp_path / "cache-joined")
    across = ("--folds", "corpus", "--dev", "speaker", *LATE_FUSION, "--out", tmp_path / "run")
    ended(0, "train-head", tmp_path / "cache-joined", *across)
    assert set(pd.read_csv(tmp_path / "run" / "predictions.csv")["fold"]) == {"tess", "other"}
