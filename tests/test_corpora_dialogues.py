"""Corpora of dialogues, podcasts and videos, and audformat, in miniatures of their exact file formats."""

import contextlib
import random
import stat
from pathlib import Path

import pandas as pd
import pytest
from small_speech import write_noise, write_text

from mmser.corpora import Reading, Request, read_corpus
from mmser.corpora.video import take_sound
from mmser.errors import AudioError, ManifestError, MmserError


def rows_of(reading: Reading) -> dict[str, dict[str, object]]:
    return {row["utterance_id"]: row for row in reading.manifest.table.to_dict("records")}


def cells(row: dict[str, object], *columns: str) -> list[object]:
    return [row[column] for column in columns]


EVALUATION = (
    "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"
    "\n"
    "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 3.5000, 2.0000]\n"
    "C-E2:\tNeutral;\t()\n"
    "C-E3:\tNeutral; Anger;\t(annoyed; a bit)\n"
    "C-E4:\tExcited;\t()\n"
    "C-F1:\tFrustration;\t(curious)\n"
    "A-E3:\tval 3; act 2; dom  2;\t()\n"
    "A-F1:\tval 3; act 2; dom  ;\t()\n"
    "\n"
    "[10.0100 - 11.3925]\tSes01F_impro01_M002\texc\t[5.5000, 4.0000, 0.5000]\n"
    "C-E2:\tExcited;\t()\n"
    "\n"
    "[12.0100 - 13.3925]\tSes01F_impro01_M003\txxx\t[3.0000, 3.0000, 3.0000]\n"
    "C-E2:\tHappiness;\t()\n"
    "C-E3:\tSurprise;\t()\n"
    "\n"
    "[14.0100 - 15.3925]\tSes01F_impro01_F004\tfru\t[2.0000, 3.0000, 3.0000]\n"
    "C-E2:\tFrustration;\t()\n"
    "\n"
    "[16.0100 - 17.3925]\tSes01F_impro01_F005\tsad\t[2.0000, 3.0000, 3.0000]\n"
    "\n\n"
)

TRANSCRIPT = (
    "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\n"
    "Ses01F_impro01_MXX0 [009.0000-009.5000]: [LAUGHTER]\n"
    "M: a remark without a span\n"
    "Ses01F_impro01_M002 [010.0100-011.3925]: Yeah. [LAUGHTER]\n"
    "Ses01F_impro01_M003 [012.0100-013.3925]: Oh: really?\n"
    "Ses01F_impro01_F004 [014.0100-015.3925]: Well \xe9.\n"
)


@pytest.fixture
def iemocap(tmp_path: Path) -> Path:
    session = tmp_path / "IEMOCAP_full_release" / "Session1"
    dialog = session / "dialog"
    write_text(dialog / "EmoEvaluation" / "Ses01F_impro01.txt", EVALUATION)
    write_text(dialog / "EmoEvaluation" / "._Ses01F_impro01.txt", "\0\5\x16\7")
    write_text(
        dialog / "EmoEvaluation" / "Categorical" / "Ses01F_impro01_e2_cat.txt", "Ses01F_impro01_F000 :Anger; ()\n"
    )
    write_text(dialog / "EmoEvaluation" / "Attribute" / "Ses01F_impro01_e2_atr.txt", "Ses01F_impro01_F000 :act 4;\n")
    write_text(dialog / "transcriptions" / "Ses01F_impro01.txt", TRANSCRIPT, "latin-1")
    wav = session / "sentences" / "wav" / "Ses01F_impro01"
    for turn in ("F000", "M002", "M003", "F004"):
        write_noise(wav / f"Ses01F_impro01_{turn}.wav")
    write_text(wav / "._Ses01F_impro01_F000.wav", "\0\5\x16\7")
    script = "[1.0000 - 2.0000]\tSes05M_script01_1b_M010\thap\t[4.0000, 4.0000, 3.0000]\r\nC-E2:\tHappiness;\t()\r\n"
    session = tmp_path / "IEMOCAP_full_release" / "Session5"
    write_text(session / "dialog" / "EmoEvaluation" / "Ses05M_script01_1b.txt", script)
    write_noise(session / "sentences" / "wav" / "Ses05M_script01_1b" / "Ses05M_script01_1b_M010.wav")
    return tmp_path


def test_iemocap_four_classes(iemocap: Path) -> None:
    reading = read_corpus("iemocap", Request(iemocap))
    rows = rows_of(reading)
    assert {uid: row["label"] for uid, row in rows.items()} == {
        "Ses01F_impro01_F000": "neu",
        "Ses01F_impro01_M002": "hap",
        "Ses05M_script01_1b_M010": "hap",
    }
    first = rows["Ses01F_impro01_F000"]
    # two observers said neutral, one of them anger too, one excited; what F1 says of herself does not count
    assert cells(first, "votes_neu", "votes_ang", "votes_hap", "votes_sad", "votes_other") == ["2", "1", "1", "0", "0"]
    assert cells(first, "valence", "arousal", "dominance") == [2.5, 3.5, 2.0]
    assert cells(first, "speaker", "session", "gender", "dialogue", "scenario", "text") == [
        "Ses01_F", "Ses01", "female", "Ses01F_impro01", "improvised", "Excuse me."
    ]  # fmt: skip
    second = rows["Ses01F_impro01_M002"]
    assert cells(second, "speaker", "gender", "emotion", "text") == ["Ses01_M", "male", "exc", "Yeah. [LAUGHTER]"]
    assert cells(second, "valence", "dominance") == [5.5, 0.5]  # beyond the scale, and left there
    script = rows["Ses05M_script01_1b_M010"]
    assert cells(script, "speaker", "scenario", "dialogue") == ["Ses05_M", "scripted", "Ses05M_script01_1b"]
    assert reading.manifest.utterances()[0].audio.is_file()
    assert reading.excluded == {
        "Ses01F_impro01_F005": "its recording is not there",
        "Ses01F_impro01_M003": "it has no label",
        "Ses01F_impro01_F004": "label 'fru' is no class of label set 4class-exc-as-hap",
    }
    assert reading.manifest.warnings[:2] == (
        "IEMOCAP: Session2, Session3, Session4 not there",
        "IEMOCAP: no transcript Ses05M_script01_1b.txt: its turns have no text",
    )
    assert "IEMOCAP: found 3 utterances, expected 5531 as published" in reading.manifest.warnings


def test_iemocap_other_label_sets(iemocap: Path) -> None:
    six = rows_of(read_corpus("iemocap", Request(iemocap), "6class"))
    assert [row["label"] for row in six.values()] == ["neu", "exc", "fru", "hap"]
    improvised = read_corpus("iemocap", Request(iemocap), "4class-improvised")
    assert improvised.manifest.ids == ["Ses01F_impro01_F000", "Ses01F_impro01_M002"]
    everyone = rows_of(read_corpus("iemocap", Request(iemocap), "dimensional"))
    assert [row["label"] for row in everyone.values()] == ["neu", "exc", "", "fru", "hap"]
    unsure = everyone["Ses01F_impro01_M003"]
    assert cells(unsure, "votes_hap", "votes_sur", "valence", "text") == ["1", "1", 3.0, "Oh: really?"]
    assert everyone["Ses01F_impro01_F004"]["text"] == "Well é."


def test_iemocap_names_a_line_that_is_no_turn(iemocap: Path) -> None:
    path = next(iemocap.rglob("Ses05M_script01_1b.txt"))
    path.write_text("[1.0 - 2.0] Ses05M_script01_1b_M010 hap\n" + path.read_text())
    warnings = read_corpus("iemocap", Request(iemocap)).manifest.warnings
    assert any("Ses05M_script01_1b.txt, line 1: not the head of a turn" in warning for warning in warnings)


def test_iemocap_votes_of_a_damaged_turn_are_nobodys(iemocap: Path) -> None:
    path = next(iemocap.rglob("EmoEvaluation/Ses01F_impro01.txt"))
    path.write_text(path.read_text().replace("Ses01F_impro01_M002\texc", "Ses01F_impro01_M002 exc"))
    rows = rows_of(read_corpus("iemocap", Request(iemocap), "dimensional"))
    assert cells(rows["Ses01F_impro01_F000"], "votes_neu", "votes_ang", "votes_exc") == ["2", "1", "1"]
    assert cells(rows["Ses01F_impro01_M003"], "votes_hap", "votes_sur") == ["1", "1"]


IMPROV = (
    "UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:2.800000; V:3.000000; D:2.800000 ; N:3.200000;\n"
    "rater-p3; Neutral; Neutral,Excited; A:3.000000; V:3.000000; D:NaN; N:4.000000;\n"
    "rater-p4; Angry; Angry; A:1.000000; V:2.000000; D:3.000000; N:4.000000;\n"
    "rater-p4; Angry; Angry; A:1.000000; V:2.000000; D:3.000000; N:4.000000;\n"
    "\n"
    "UTD-IMPROV-S20H-M06-R-MF02.avi; X; A:1.000000; V:NaN; D:2.800000 ; N:3.200000;\n"
    "rater-p3; Other; Tired; A:3.000000; V:3.000000; D:NaN; N:4.000000;\n"
    "\n"
    "UTD-IMPROV-S20H-M06-R-MF03.avi; H; A:1.000000; V:4.000000; D:2.800000 ; N:3.200000;\n"
)


@pytest.mark.parametrize(
    ("name", "audio", "text"),
    [("Evaluation.txt", "Audio", "All_human_transcriptions/x"), ("Evalution.txt", "", "Text")],
)
def test_msp_improv_activation_is_inverted(tmp_path: Path, name: str, audio: str, text: str) -> None:
    write_text(tmp_path / name, IMPROV)
    homes = {
        "S01A-F01-P-FM01": "session1/S01A/P",
        "S20H-M06-R-MF02": "session6/S20H/R",
        "S20H-M06-R-MF09": "session6/S20H/R",
    }
    for turn, home in homes.items():
        write_noise(tmp_path / audio / home / f"MSP-IMPROV-{turn}.wav", rate=48_000)
    write_text(tmp_path / text / "MSP-IMPROV-S01A-F01-P-FM01.txt", "How can I \r\nnot?\r\n")
    reading = read_corpus("msp-improv", Request(tmp_path), "dimensional")
    rows = rows_of(reading)
    first = rows["MSP-IMPROV-S01A-F01-P-FM01"]
    assert cells(first, "arousal", "valence", "dominance", "naturalness") == [3.2, 3.0, 2.8, "3.200000"]
    assert cells(first, "speaker", "session", "gender", "condition", "intended", "text", "label") == [
        "F01", "1", "female", "natural", "angry", "How can I not?", "N"
    ]  # fmt: skip
    assert cells(first, "votes_N", "votes_A") == ["1", "2"]
    second = rows["MSP-IMPROV-S20H-M06-R-MF02"]
    assert cells(second, "label", "arousal", "speaker", "session", "condition", "votes_O") == [
        "", 5.0, "M06", "6", "target-read", "1"
    ]  # fmt: skip
    assert second["valence"] != second["valence"]
    assert reading.excluded == {
        "MSP-IMPROV-S20H-M06-R-MF03": "its recording is not there",
        "MSP-IMPROV-S20H-M06-R-MF09": f"not in {name}",
    }
    four = read_corpus("msp-improv", Request(tmp_path))
    assert four.manifest.ids == ["MSP-IMPROV-S01A-F01-P-FM01"]


def test_msp_improv_votes_of_a_damaged_turn_are_nobodys(tmp_path: Path) -> None:
    write_text(tmp_path / "Evaluation.txt", IMPROV.replace("MF02.avi; X", "MF02.avi, X"))
    write_noise(tmp_path / "MSP-IMPROV-S01A-F01-P-FM01.wav", rate=48_000)
    reading = read_corpus("msp-improv", Request(tmp_path), "dimensional")
    assert cells(rows_of(reading)["MSP-IMPROV-S01A-F01-P-FM01"], "votes_N", "votes_A", "votes_O") == ["1", "2", "0"]
    assert any("Evaluation.txt, line 6: not the head of a turn" in warning for warning in reading.manifest.warnings)


PODCAST = (
    "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
    "MSP-PODCAST_0001_0008.wav,N,3.833333,4.5,4.0,127,Male,Train\n"
    "MSP-PODCAST_0001_0009.wav,X,5.0,2.5,4.0,Unknown,Unknown,Development\n"
    "MSP-PODCAST_0002_0001.wav,C,5.0,2.5,4.0,9,Female,Test1\n"
    "MSP-PODCAST_1909_1017.wav,A,5.0,2.5,4.0,9,Female,Test2\n"
)


@pytest.fixture
def podcast(tmp_path: Path) -> Path:
    for name in ("0001_0008", "0001_0009", "0002_0001", "0003_0001"):
        write_noise(tmp_path / "Audios" / f"MSP-PODCAST_{name}.wav", channels=2 if name == "0001_0008" else 1)
    write_text(tmp_path / "Labels" / "labels_consensus.csv", PODCAST)
    write_text(
        tmp_path / "Labels" / "labels.txt",
        "MSP-PODCAST_0001_0008.wav; N; A:3.833333; V:4.500000; D:4.000000;\n"
        "WORKER00000001; Other-tired; Concerned,Confused; A:3.000000; V:3.000000; D:4.000000;\n"
        "WORKER00000002; Neutral; ; A:3.000000; V:3.000000; D:4.000000;\n"
        "WORKER00000002; Neutral; ; A:3.000000; V:3.000000; D:4.000000;\n"
        "\nMSP-PODCAST_0001_0009.wav; X; A:5.000000; V:2.500000; D:4.000000;\n",
    )
    write_text(
        tmp_path / "Partitions.txt",
        "Train; MSP-PODCAST_0001_0008.wav\nDevelopment; MSP-PODCAST_0001_0009.wav\nTest2; MSP-PODCAST_0002_0001.wav\n"
        "Test3; MSP-PODCAST_0003_0001.wav\n",
    )
    write_text(tmp_path / "Transcripts" / "MSP-PODCAST_0001_0008.txt", "So, anyway.\n")
    return tmp_path


def test_msp_podcast(podcast: Path) -> None:
    reading = read_corpus("msp-podcast", Request(podcast), "dimensional")
    rows = rows_of(reading)
    first = rows["MSP-PODCAST_0001_0008"]
    assert cells(first, "arousal", "valence", "dominance") == [3.833333, 4.5, 4.0]
    assert cells(first, "speaker", "gender", "split", "text", "votes_N", "votes_O") == [
        "127", "male", "Train", "So, anyway.", "2", "1"
    ]  # fmt: skip
    second = rows["MSP-PODCAST_0001_0009"]
    assert cells(second, "speaker", "gender", "label", "text") == ["", "", "", ""]
    assert reading.excluded == {
        "MSP-PODCAST_1909_1017": "its recording is not there",
        "MSP-PODCAST_0003_0001": "Test3: no labels are published",
    }
    assert "1 turns are in another part by Partitions.txt" in reading.manifest.warnings[0]
    assert "fit none of the releases that are known here: 1.8 (73042)" in reading.manifest.warnings[1]
    assert read_corpus("msp-podcast", Request(podcast), "8class").manifest.ids == [
        "MSP-PODCAST_0001_0008",
        "MSP-PODCAST_0002_0001",
    ]


def test_msp_podcast_older_releases_write_it_otherwise(podcast: Path) -> None:
    new = read_corpus("msp-podcast", Request(podcast), "dimensional").manifest.table
    (podcast / "Labels").rename(podcast / "labels")
    table = pd.read_csv(podcast / "labels" / "labels_consensus.csv", dtype=str).set_index("FileName")
    (podcast / "labels" / "labels_consensus.csv").unlink()
    table.T.to_json(podcast / "labels" / "labels_concensus.json")
    (podcast / "Partitions.txt").rename(podcast / "Partition.txt")
    pd.testing.assert_frame_equal(read_corpus("msp-podcast", Request(podcast), "dimensional").manifest.table, new)
    write_text(podcast / "labels" / "labels_concensus.json", '{"MSP-PODCAST_0001_0008.wav": {"EmoClass": "N"}}')
    with pytest.raises(ManifestError, match=r"'MSP-PODCAST_0001_0008.wav' has no 'EmoAct'"):
        read_corpus("msp-podcast", Request(podcast))
    write_text(podcast / "labels" / "labels_concensus.json", "[1]")
    with pytest.raises(ManifestError, match="not readable"):
        read_corpus("msp-podcast", Request(podcast))


@pytest.mark.parametrize(
    "table",
    [
        # 1.7 to 1.12, before, and 2.0
        'FileName,EmoDetail\n{0},"WORKER00000001; Other-tired; Concerned,Confused; A:3.0; V:3.0; D:4.0;"\n'
        '{0},"WORKER00000002; Neutral; ; A:3.0; V:3.0;"\n{0},"WORKER00000002; Neutral; ; A:3.0; V:3.0;"\n',
        "FileName,Workers,EmoClass_Major,EmoClass_Second,EmoAct\n"
        '{0},WORKER1,Other-tired,"Concerned,Confused",3\n{0},WORKER2,Neutral,,3\n{0},WORKER2,Neutral,,3\n',
        "FileName,WorkerID,EmoClass_Major,EmoClass_Second,EmoAct\n{0},1,Other-tired,,3\n{0},2,Neutral,,3\n{0},2,Neutral,,3\n",
    ],
    ids=["1.7", "1.6", "2.0"],
)
def test_msp_podcast_has_the_same_votes_in_its_detailed_table(podcast: Path, table: str) -> None:
    blocks = read_corpus("msp-podcast", Request(podcast), "dimensional").manifest.table
    (podcast / "Labels" / "labels.txt").unlink()
    write_text(podcast / "Labels" / "labels_detailed.csv", table.format("MSP-PODCAST_0001_0008.wav"))
    pd.testing.assert_frame_equal(read_corpus("msp-podcast", Request(podcast), "dimensional").manifest.table, blocks)
    write_text(podcast / "Labels" / "labels_detailed.csv", "FileName,EmoClass\nMSP-PODCAST_0001_0008.wav,N\n")
    with pytest.raises(ManifestError, match=r"labels_detailed.csv: has no column 'EmoDetail' or 'EmoClass_Major'"):
        read_corpus("msp-podcast", Request(podcast))
    write_text(podcast / "Labels" / "labels_detailed.csv", "FileName,EmoDetail\nMSP-PODCAST_0001_0008.wav,WORKER1\n")
    warnings = read_corpus("msp-podcast", Request(podcast)).manifest.warnings
    assert "MSP-Podcast: 1 judgements in labels_detailed.csv name no label: 'MSP-PODCAST_0001_0008'" in warnings
    (podcast / "Labels" / "labels_detailed.csv").unlink()
    reading = read_corpus("msp-podcast", Request(podcast), "dimensional")
    assert "votes_N" not in reading.manifest.table
    assert any(
        "neither labels.txt nor labels_detailed.csv is there" in warning for warning in reading.manifest.warnings
    )


MELD = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\r\n"


@pytest.fixture
def meld(tmp_path: Path) -> Path:
    rows = {
        "train": [
            '1,"also I was the point person, on it\u2019s way",Chandler,neutral,neutral,0,0,8,21,"00:16:16,059",'
            '"00:16:21,731"',
            '2,corrupt,All,joy,positive,125,3,8,21,"0:16:16,059","0:16:21,731"',
            '3,miscut,All,joy,positive,309,0,8,21,"0:16:16,059","0:16:21,731"',
        ],
        "dev": [
            '1,"Oh my God, he\u2019s lost it.",Phoebe,sadness,negative,0,0,4,7,"00:20:57,256","00:21:00,049"',
            '2,missing,Phoebe,sadness,negative,110,7,4,7,"00:20:57,256","00:21:00,049"',
        ],
        "test": ['1,"Why?",Chandler,surprise,positive,0,0,1,1,"00:00:01,000","00:00:02,000"'],
    }
    for part, lines in rows.items():
        write_text(tmp_path / f"{part}_sent_emo.csv", MELD + "".join(f"{line}\r\n" for line in lines))
    clips = {
        "train/train_splits": ("dia0_utt0", "dia125_utt3", "dia309_utt0"),
        "dev/dev_splits_complete": ("dia0_utt0", "dia49_utt4"),
        "test/output_repeated_splits_test": ("dia0_utt0", "final_videos_testdia0_utt0", "._dia0_utt0"),
    }
    for home, names in clips.items():
        for name in names:
            write_text(tmp_path / home / f"{name}.mp4", f"a video: {home}/{name}")
    return tmp_path


FFMPEG = """#!/bin/sh
# stands for ffmpeg: writes its arguments where it is to write, and fails on a broken video
for last in "$@"; do :; done
case "$*" in *broken*) echo "moov atom not found" >&2; exit 1;; esac
echo "$@" > "${last#file:}"
"""


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bin" / "ffmpeg"
    write_text(path, FFMPEG)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")


@pytest.mark.usefixtures("ffmpeg")
def test_meld_without_its_known_faults(meld: Path, tmp_path: Path) -> None:
    reading = read_corpus("meld", Request(meld, tmp_path / "sound"))
    rows = rows_of(reading)
    assert list(rows) == ["train_dia0_utt0", "dev_dia0_utt0", "test_dia0_utt0"]
    first = rows["train_dia0_utt0"]
    assert cells(first, "text", "speaker", "label", "sentiment", "split", "dialogue", "season") == [
        "also I was the point person, on it\u2019s way", "Chandler", "neutral", "neutral", "train", "train_dia0", "8"
    ]  # fmt: skip
    assert first["audio"] == "sound/train_dia0_utt0.wav"
    assert reading.excluded == {
        "train_dia125_utt3": "a corrupt video (issue 39)",
        "train_dia309_utt0": "miscut: its clip is 41 s long (issue 20)",
        "dev_dia49_utt4": "a clip without a row in dev_sent_emo.csv",
        "dev_dia110_utt7": "its video is not in the corpus (issue 27)",
    }
    assert "1 files in output_repeated_splits_test are no clips" in reading.manifest.warnings[0]
    sentiment = rows_of(read_corpus("meld", Request(meld, tmp_path / "sound"), "sentiment"))
    assert [row["label"] for row in sentiment.values()] == ["neutral", "negative", "positive"]


def test_meld_says_what_it_needs(meld: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ManifestError, match="MELD: 3 clips are videos: give --audio FOLDER"):
        read_corpus("meld", Request(meld))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AudioError, match=r"MELD: its clips are videos, and ffmpeg, .* is not installed: install it"):
        read_corpus("meld", Request(meld, tmp_path / "sound"))
    for part, home in (
        ("train", "train_splits"),
        ("dev", "dev_splits_complete"),
        ("test", "output_repeated_splits_test"),
    ):
        write_noise(meld / part / home / "dia0_utt0.wav")
    reading = read_corpus("meld", Request(meld))
    assert reading.manifest.column("audio")[0] == "train/train_splits/dia0_utt0.wav"


@pytest.mark.usefixtures("ffmpeg")
def test_sound_is_taken_whole_once_and_from_files_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "-i.mp4", "named like an option")
    write_text(tmp_path / "broken.mp4", "")
    videos = {"a": tmp_path / "-i.mp4", "b": tmp_path / "broken.mp4"}
    told: list[object] = []
    made, reasons = take_sound(videos, tmp_path / "out", "Toy", lambda *done: told.append(done))
    assert made == {"a": tmp_path / "out" / "a.wav"}
    assert reasons == {"b": "ffmpeg cannot read it: moov atom not found"}
    assert told == [("sound of videos", 1, 2), ("sound of videos", 2, 2)]
    arguments = made["a"].read_text().split()
    assert f"file:{tmp_path}/-i.mp4" in arguments
    assert arguments[arguments.index("-protocol_whitelist") + 1] == "file"
    assert "-ar 16000" in " ".join(arguments)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.wav"]
    made["a"].write_text("kept")
    take_sound(videos, tmp_path / "out", "Toy", lambda *done: told.append(done))
    assert made["a"].read_text() == "kept"
    with pytest.raises(ManifestError, match="looks like a path"):
        take_sound({"../x": tmp_path / "-i.mp4"}, tmp_path / "out", "Toy", print)


def test_cmu_mosi_as_mmsa_hands_it_round(tmp_path: Path) -> None:
    write_text(
        tmp_path / "label.csv",
        "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
        "_dI--eQ6qVU,1,A LOVELY MOVIE,2.4,,,,Positive,train\n"
        "03bSnISJMiM,1,it was,-0.4,,,,Negative,valid\n"
        "03bSnISJMiM,2,so,0,,,,Neutral,test\n"
        "03bSnISJMiM,3,gone,0,,,,Neutral,test\n",
    )
    for name in ("_dI--eQ6qVU/1", "03bSnISJMiM/1", "03bSnISJMiM/2"):
        write_noise(tmp_path / "Raw" / f"{name}.wav")
    reading = read_corpus("cmu-mosi", Request(tmp_path))
    rows = rows_of(reading)
    assert [cells(row, "label", "sentiment", "sentiment2", "sentiment7", "split") for row in rows.values()] == [
        ["positive", "2.4", "non-negative", "+2", "train"],
        ["negative", "-0.4", "negative", "+0", "dev"],
        ["neutral", "0", "non-negative", "+0", "test"],
    ]
    assert rows["_dI--eQ6qVU_1"]["speaker"] == "_dI--eQ6qVU"
    assert reading.excluded == {"03bSnISJMiM_3": "no clip Raw/03bSnISJMiM/3.mp4"}
    assert "the 93 are of 89 people" in reading.manifest.warnings[0]
    write_text(tmp_path / "label.csv", "video_id,clip_id,text,label,mode\n../../etc,1,x,1,train\n")
    with pytest.raises(ManifestError, match="looks like a path"):
        read_corpus("cmu-mosi", Request(tmp_path))


def test_cmu_mosei_joins_transcripts_by_time(tmp_path: Path) -> None:
    write_text(
        tmp_path / "CMU_MOSEI_Labels.csv",
        ",file,index,start,end,label2a,label2b,label6,label7,split\n"
        "0,vid,0,-0.12,3.4,1,0,2,0,0\n"
        "1,vid,1,3.4,9.5,0,-1,1,-2,2\n"
        "2,vid,2,3.4,9.5,0,-1,1,-2,3\n"
        "3,gone,0,3.4,9.5,0,-1,1,-2,1\n",
    )
    write_noise(tmp_path / "Raw" / "Audio" / "Full" / "WAV_16000" / "vid.wav", seconds=10)
    write_text(
        tmp_path / "Raw" / "Transcript" / "Segmented" / "Combined" / "vid.txt",
        "vid___7___3.4___9.5___Then ___ this.\nvid___8___-0.12___3.4___First.\n",
    )
    reading = read_corpus("cmu-mosei", Request(tmp_path), "emotion6")
    rows = rows_of(reading)
    assert [cells(row, "start_s", "end_s", "text", "label", "sentiment3", "split") for row in rows.values()] == [
        [0.0, 3.4, "First.", "anger", "neutral", "train"],
        [3.4, 9.5, "Then ___ this.", "sad", "negative", "test"],
    ]
    assert "1 utterances begin before their video does" in reading.manifest.warnings[0]
    assert reading.excluded == {
        "vid_2": "in none of the official parts",
        "gone_0": "no recording WAV_16000/gone.wav",
    }
    write_text(
        tmp_path / "CMU_MOSEI_Labels.csv",
        ",file,index,start,end,label2a,label2b,label6,label7,split\n0,vid,0,x,3.4,1,0,2,0,0\n",
    )
    with pytest.raises(ManifestError, match="the row of 'vid_0' is not as s3prl writes it"):
        read_corpus("cmu-mosei", Request(tmp_path))


# written by audformat 1.4.3, Database.save
HEADER = """name: mini
source: x
usage: research
languages: [deu]
raters:
  r1: {type: human}
schemes:
  arousal: {dtype: float, minimum: 0, maximum: 1}
  emotion:
    dtype: str
    labels: [angry, happy, neutral]
  speaker:
    dtype: str
    labels:
      s1: {gender: female, age: 30}
      s2: {gender: male}
  transcription:
    dtype: str
    labels: {a01: Der Lappen.}
splits:
  test: {type: test}
  train: {type: train}
tables:
  emotion.categories.test:
    type: filewise
    split_id: test
    columns:
      emotion: {scheme_id: emotion, rater_id: r1}
  emotion.categories.train:
    type: filewise
    split_id: train
    columns:
      emotion: {scheme_id: emotion, rater_id: r1}
  files:
    type: filewise
    columns:
      speaker: {scheme_id: speaker}
      transcription: {scheme_id: transcription}
  seg:
    type: segmented
    columns:
      arousal: {scheme_id: arousal}
misc_tables:
  misc:
    levels: {k: str}
"""


@pytest.fixture(params=["csv", "parquet"])
def audformat(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    tables = {
        "emotion.categories.test": "file,emotion\naudio/c.wav,angry\n",
        "emotion.categories.train": "file,emotion\naudio/a.wav,angry\naudio/b.wav,happy\naudio/gone.wav,happy\n",
        "files": "file,speaker,transcription\naudio/a.wav,s1,a01\naudio/b.wav,s2,a01\naudio/c.wav,s1,a01\n",
        "seg": "file,start,end,arousal\naudio/a.wav,0 days 00:00:00.000000,0 days 00:00:01,0.5\n"
        "audio/b.wav,0 days 00:00:01.500000,,\n",
    }
    write_text(tmp_path / "db.yaml", HEADER)
    for name, text in tables.items():
        path = tmp_path / f"db.{name}.csv"
        write_text(path, text)
        if request.param == "parquet":
            table = pd.read_csv(path)
            for column in {"start", "end"} & set(table.columns):
                table[column] = pd.to_timedelta(table[column])
            table.to_parquet(path.with_suffix(".parquet"), index=False)
            path.unlink()
    for name in "abc":
        write_noise(tmp_path / "audio" / f"{name}.wav", seconds=2)
    return tmp_path


def test_audformat_joins_tables(audformat: Path) -> None:
    reading = read_corpus("audformat", Request(audformat))
    rows = rows_of(reading)
    assert {
        uid: cells(row, "audio", "label", "split", "speaker", "gender", "age", "text") for uid, row in rows.items()
    } == {
        "c": ["audio/c.wav", "angry", "test", "s1", "female", "30", "Der Lappen."],
        "a": ["audio/a.wav", "angry", "train", "s1", "female", "30", "Der Lappen."],
        "b": ["audio/b.wav", "happy", "train", "s2", "male", "", "Der Lappen."],
    }
    assert reading.excluded == {"gone": "its recording is not there"}
    segments = rows_of(read_corpus("audformat", Request(audformat, tables=("seg",)), "all"))
    assert list(segments) == ["a_0-1000", "b_1500-end"]
    assert cells(segments["a_0-1000"], "end_s", "arousal", "label", "speaker") == [1.0, 0.5, "angry", "s1"]
    assert cells(segments["b_1500-end"], "start_s", "label", "speaker") == [1.5, "happy", "s2"]
    with pytest.raises(ManifestError, match="no table 'none'"):
        read_corpus("audformat", Request(audformat, tables=("none",)))


def test_audformat_opens_no_pickle_and_leaves_its_folder_never(audformat: Path) -> None:
    write_text(audformat / "db.emotion.categories.test.csv", "file,emotion\n../outside.wav,angry\n/etc/x.wav,angry\n")
    (audformat / "db.emotion.categories.test.parquet").unlink(missing_ok=True)
    reading = read_corpus("audformat", Request(audformat))
    assert [why for why in reading.excluded.values() if "outside the database" in why] == [
        "its file '../outside.wav' lies outside the database",
        "its file '/etc/x.wav' lies outside the database",
    ]
    (audformat / "db.emotion.categories.test.csv").rename(audformat / "db.emotion.categories.test.pkl")
    with pytest.raises(ManifestError, match="is there as pickle alone, which can run code and is never opened"):
        read_corpus("audformat", Request(audformat))
    write_text(audformat / "db.yaml", HEADER.replace("  seg:", "  ../seg:"))
    with pytest.raises(ManifestError, match=r"table '\.\./seg' is named like a path"):
        read_corpus("audformat", Request(audformat, tables=("files", "../seg")))
    write_text(audformat / "db.yaml", "tables: [files]\n")
    with pytest.raises(ManifestError, match="its tables are not described as audformat does"):
        read_corpus("audformat", Request(audformat))
    write_text(audformat / "db.yaml", "!!python/object/apply:os.system [exit]\n")
    with pytest.raises(ManifestError, match=r"db\.yaml: not readable"):
        read_corpus("audformat", Request(audformat))


DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeros": lambda data: data[:20] + b"\0" * 20 + data[20:],
    "other": lambda data: data.replace(b"0", b"x"),
    "quote": lambda data: data.replace(b",", b',"', 3),
    "bytes": lambda data: bytes(random.Random(0).randbytes(200)),
}


def check_damaged(corpus: str, folder: Path, damage: str) -> None:
    """Read the corpus with each of its text files damaged in turn: an error has to be one of ours."""
    read_corpus(corpus, Request(folder))  # whole, it can be read
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".wav", ".mp4")):
        whole = path.read_bytes()
        path.write_bytes(DAMAGES[damage](whole))
        with contextlib.suppress(MmserError):
            assert len(read_corpus(corpus, Request(folder)).manifest) > 0
        path.write_bytes(whole)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("corpus", ["iemocap", "msp-podcast", "meld"])
def test_damaged_files_are_read_as_far_as_they_go_or_named(
    request: pytest.FixtureRequest, corpus: str, damage: str
) -> None:
    folder = request.getfixturevalue(corpus.removeprefix("msp-"))
    if corpus == "meld":
        for home in ("train/train_splits", "dev/dev_splits_complete", "test/output_repeated_splits_test"):
            write_noise(folder / home / "dia0_utt0.wav")
    check_damaged(corpus, folder, damage)


@pytest.mark.usefixtures("ffmpeg")
@pytest.mark.parametrize("corpus", ["iemocap", "msp-podcast", "meld"])
def test_byte_order_marks_and_carriage_returns_change_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, corpus: str
) -> None:
    folder = request.getfixturevalue(corpus.removeprefix("msp-"))
    asked = Request(folder, audio=tmp_path / "sound")
    before = read_corpus(corpus, asked)
    for path in (path for suffix in ("txt", "csv") for path in folder.rglob(f"[!.]*.{suffix}")):
        with contextlib.suppress(UnicodeDecodeError):
            text = path.read_text(encoding="utf-8")
            write_text(path, text.replace("\r\n", "\n").replace("\n", "\r\n"), "utf-8-sig")
    after = read_corpus(corpus, asked)
    pd.testing.assert_frame_equal(after.manifest.table, before.manifest.table)
    assert (after.excluded, after.manifest.warnings) == (before.excluded, before.manifest.warnings)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tables_of_audformat_too(audformat: Path, damage: str) -> None:
    check_damaged("audformat", audformat, damage)
