"""The doctor: each illness is planted in a healthy corpus, and has to be the one that is found."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from sklearn.metrics import balanced_accuracy_score
from small_cache import POOLED, edit_manifest, write_cache
from small_corpus import Said, mmser
from small_speech import write_noise

from mmser.cache import Cache
from mmser.commands import EXIT_PROBLEMS
from mmser.corpora import CORPORA
from mmser.corpora.corpus import miscounted, write_excluded
from mmser.doctor import Diagnosis, Finding, diagnose
from mmser.doctor.findings import NOTE, PROBLEM
from mmser.doctor.texts import num_letters
from mmser.manifest import Manifest, write_manifest

LABELS = ("angry", "sad")
SENTENCES = ("the kettle is on", "we leave at ten", "it rains again", "who took my coat")
CHINESE = ("今天的天气真好", "请你把门关上", "我不知道该怎么办", "他昨天没有回家")


@pytest.fixture
def healthy(tmp_path: Path) -> pd.DataFrame:
    """Four speakers say four sentences in two emotions; nothing is wrong."""
    rows = []
    for speaker in "abcd":
        for number, sentence in enumerate(SENTENCES):
            for label in LABELS:
                uid = f"{speaker}{number}{label}"
                write_noise(tmp_path / f"{uid}.wav", seconds=1.0)
                part = {"a": "train", "b": "train", "c": "dev", "d": "test"}[speaker]
                rows.append((uid, f"{uid}.wav", sentence, speaker, label, part))
    return pd.DataFrame(rows, columns=["utterance_id", "audio", "text", "speaker", "label", "split"])


def examine(table: pd.DataFrame, folder: Path, **options: Any) -> Diagnosis:
    return diagnose(Manifest(table, folder), options.pop("excluded", {}), **options)


def only_problem(diagnosis: Diagnosis) -> Finding:
    (finding,) = diagnosis.problems
    return finding


def note(diagnosis: Diagnosis, check: str) -> Finding:
    (finding,) = [one for one in diagnosis.findings if (one.level, one.check) == (NOTE, check)]
    return finding


def test_nothing_is_found_where_nothing_is(healthy: pd.DataFrame, tmp_path: Path) -> None:
    diagnosis = examine(healthy, tmp_path)
    assert diagnosis.problems == []
    assert {finding.check for finding in diagnosis.findings} == {"text leak"}  # both figures, as notes
    assert diagnosis.num_utterances == 32
    assert diagnosis.counts == {
        "label": {"angry": 16, "sad": 16},
        "speaker": dict.fromkeys("abcd", 8),
        "split": {"dev": 8, "test": 8, "train": 16},
    }


def test_the_same_sound_under_two_ids(healthy: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "b1sad.wav").write_bytes((tmp_path / "a0angry.wav").read_bytes())
    finding = only_problem(examine(healthy, tmp_path))
    assert finding.check == "duplicates"
    assert finding.utterances == ("a0angry", "b1sad")
    assert "in 1 the labels differ, such as 'a0angry' and 'b1sad'" in finding.message


def test_recordings_that_cannot_be_used(healthy: pd.DataFrame, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a0angry.wav", np.zeros(16_000), 16_000)
    (tmp_path / "b0sad.wav").unlink()
    finding = only_problem(examine(healthy, tmp_path))
    assert finding.utterances == ("a0angry", "b0sad")
    assert "2 recordings cannot be used; the first is of 'a0angry'" in finding.message
    assert "is silent" in finding.message
    assert examine(healthy, tmp_path, audio=False).problems == []


@pytest.mark.parametrize(
    ("others", "subtype"),
    [
        ([], "PCM_16"),
        ([0.1], "PCM_16"),
        ([0.1] * 3, "PCM_16"),
        ([-0.9], "PCM_16"),  # in opposite phase: next to nothing is left of the mean
        ([], "ULAW"),
        ([], "ALAW"),
        ([0.1] * 3, "ULAW"),
    ],
)
def test_clipping_is_counted_in_the_file_itself(
    healthy: pd.DataFrame, tmp_path: Path, others: list[float], subtype: str
) -> None:
    wave = np.sin(np.arange(44_100) / 20.0)
    clipped = np.clip(3 * wave, -1, 1)
    loud = np.stack([clipped, *[factor * (clipped if factor < 0 else wave) for factor in others]], 1)
    soundfile.write(tmp_path / "a0angry.wav", loud, 44_100, subtype=subtype)
    whole = 0.999 if subtype == "PCM_16" else 0.95  # as loud; where the largest steps are wide, within them all is flat
    soundfile.write(tmp_path / "a0sad.wav", whole * wave, 44_100, subtype=subtype)
    assert note(examine(healthy, tmp_path), "clipping").utterances == ("a0angry",)


def test_clipping_in_a_part_of_a_recording(healthy: pd.DataFrame, tmp_path: Path) -> None:
    wave = np.sin(np.arange(32_000) / 20.0)
    wave[:16_000] = np.clip(3 * wave[:16_000], -1, 1)
    soundfile.write(tmp_path / "a0angry.wav", wave, 16_000)
    table = healthy.assign(start_s="", end_s="")
    assert note(examine(table, tmp_path), "clipping").utterances == ("a0angry",)
    table.loc[0, ["start_s", "end_s"]] = ["1.1", "1.9"]
    assert "clipping" not in {finding.check for finding in examine(table, tmp_path).findings}


def test_a_dialogue_given_as_an_utterance(healthy: pd.DataFrame, tmp_path: Path) -> None:
    write_noise(tmp_path / "a0angry.wav", seconds=61)
    diagnosis = examine(healthy, tmp_path)
    finding = only_problem(diagnosis)
    assert (finding.check, finding.utterances) == ("length", ("a0angry",))
    assert "the longest, 'a0angry', is 61.0 s" in finding.message
    assert note(diagnosis, "transcripts").utterances == ("a0angry",)  # and says far too little


def test_rates_are_compared_with_the_published_ones(healthy: pd.DataFrame, tmp_path: Path) -> None:
    write_noise(tmp_path / "a0angry.wav", rate=8_000, seconds=1)
    checks = [finding for finding in examine(healthy, tmp_path).findings if finding.check == "rate"]
    assert [finding.level for finding in checks] == [NOTE, NOTE]
    assert checks[0].message == "sample rates differ: 31 at 16000 Hz, 1 at 8000 Hz"
    assert checks[1].utterances == ("a0angry",)
    as_emodb = examine(healthy, tmp_path, corpus="emodb")
    (wrong,) = [finding for finding in as_emodb.problems if finding.check == "rate"]
    assert wrong.utterances == ("a0angry",)
    assert "published at 16000 Hz" in wrong.message


def test_a_rate_that_one_recording_is_known_to_have_is_no_problem(tmp_path: Path) -> None:
    names = ["MSP-PODCAST_1023_0234", "MSP-PODCAST_1023_0235"]
    write_noise(tmp_path / f"{names[0]}.wav", seconds=1)
    write_noise(tmp_path / f"{names[1]}.wav", seconds=1, rate=44_100, channels=2)
    table = pd.DataFrame({"utterance_id": names, "audio": [f"{name}.wav" for name in names], "speaker": ["1", "2"]})
    diagnosis = examine(table, tmp_path, corpus="msp-podcast:dimensional")
    assert diagnosis.problems == []
    assert note(diagnosis, "channels").utterances == (names[1],)
    write_noise(tmp_path / f"{names[0]}.wav", seconds=1, rate=44_100)
    assert only_problem(examine(table, tmp_path, corpus="msp-podcast:dimensional")).utterances == (names[0],)


def test_each_utterance_is_judged_by_the_rates_of_its_own_corpus(healthy: pd.DataFrame, tmp_path: Path) -> None:
    own = healthy["speaker"] == "a"
    for uid in healthy["utterance_id"][own]:
        write_noise(tmp_path / f"{uid}.wav", rate=44_100, seconds=1)
    table = healthy.assign(corpus=np.where(own, "mine", "emodb"), label_set=np.where(own, "moods", "7class"))
    rates = [finding for finding in examine(table, tmp_path).findings if finding.check == "rate"]
    assert [(one.level, one.message) for one in rates] == [(NOTE, "sample rates differ: 24 at 16000 Hz, 8 at 44100 Hz")]
    write_noise(tmp_path / "b0sad.wav", rate=44_100, seconds=1)
    (wrong,) = [one for one in examine(table, tmp_path).problems if one.check == "rate"]
    assert wrong.utterances == ("b0sad",)
    assert wrong.message == "23 at 16000 Hz, 1 at 44100 Hz; the corpus is published at 16000 Hz"
    # of two known corpora, the rate of one is none of the other's
    write_noise(tmp_path / "b0sad.wav", seconds=1)
    table = table.assign(corpus=np.where(own, "savee", "emodb"), label_set="7class")
    assert "rate" not in {one.check for one in examine(table, tmp_path).problems}
    write_noise(tmp_path / "a0sad.wav", seconds=1)
    (wrong,) = [one for one in examine(table, tmp_path).problems if one.check == "rate"]
    assert wrong.utterances == ("a0sad",)


def test_unlike_channels(healthy: pd.DataFrame, tmp_path: Path) -> None:
    write_noise(tmp_path / "a0angry.wav", seconds=1, channels=2)
    found = note(examine(healthy, tmp_path), "channels")
    assert found.message == "numbers of channels differ: 31 of 1, 1 of 2"
    assert found.utterances == ("a0angry",)


def test_a_transcript_that_cannot_be_said_in_time(healthy: pd.DataFrame, tmp_path: Path) -> None:
    healthy.loc[3, "text"] = "a word and another " * 4  # 60 letters in 1 s; 45 would do
    assert only_problem(examine(healthy, tmp_path)).utterances == (healthy["utterance_id"][3],)
    healthy.loc[3, "text"] = "x" * 45
    assert examine(healthy, tmp_path).problems == []
    healthy.loc[3, "text"] = ""
    assert note(examine(healthy, tmp_path), "transcripts").message == "1 utterances have no transcript"


def test_letters_are_what_is_said() -> None:
    assert num_letters("Well, [LAUGHTER] 12!") == 6
    assert num_letters("你好。") == 6
    assert num_letters("Straße") == 6
    assert num_letters("سلام") == 4
    assert num_letters("สวัสดี") == 4
    assert [num_letters(unicodedata.normalize(form, "안녕")) for form in ("NFC", "NFD")] == [6, 6]


def test_speakers_in_several_parts(healthy: pd.DataFrame, tmp_path: Path) -> None:
    healthy.loc[healthy.utterance_id == "a0angry", "split"] = "test"
    finding = only_problem(examine(healthy, tmp_path, audio=False))
    assert finding.message == "1 speakers are in several parts of the split: 'a'"
    assert len(finding.utterances) == 8
    # test parts may share theirs: they are never joined
    healthy["split"] = [f"Test{1 + row % 2}" if s == "d" else s for row, s in enumerate(healthy["speaker"])]
    healthy["split"] = healthy["split"].replace({"a": "Train", "b": "Train", "c": "Development"})
    assert examine(healthy, tmp_path, audio=False).problems == []
    healthy.loc[0, "speaker"] = ""
    assert note(examine(healthy, tmp_path, audio=False), "speakers").utterances == ("a0angry",)
    healthy["speaker"] = ""
    assert only_problem(examine(healthy, tmp_path, audio=False)).message == "no speaker is known"


def test_a_corpus_that_shares_speakers_is_explained(healthy: pd.DataFrame, tmp_path: Path) -> None:
    table = healthy.assign(split=["train", "test"] * 16, corpus="esd", label_set="5class")
    findings = examine(table, tmp_path, audio=False).problems
    (finding,) = [one for one in findings if one.check == "speakers"]
    assert finding.message.endswith("(its parts are of sentences: every speaker is in all three)")


def test_imbalance(healthy: pd.DataFrame, tmp_path: Path) -> None:
    healthy["label"] = ["angry"] * 2 + ["sad"] * 30
    assert (
        note(examine(healthy, tmp_path, audio=False), "labels").message == "'sad' has 30 utterances and 'angry' has 2"
    )
    healthy["label"] = ["angry"] * 3 + ["sad"] * 29
    assert "labels" not in {finding.check for finding in examine(healthy, tmp_path, audio=False).findings}


@pytest.mark.parametrize("script", [SENTENCES, CHINESE], ids=["English", "Chinese"])
def test_a_script_gives_the_label_away(healthy: pd.DataFrame, tmp_path: Path, script: tuple[str, ...]) -> None:
    """Every sentence has its emotion: who remembers other speakers' knows this one's."""
    healthy["label"] = [LABELS[SENTENCES.index(text) % 2] for text in healthy["text"]]
    healthy["text"] = [script[SENTENCES.index(text)] + "。" * (row % 2) for row, text in enumerate(healthy["text"])]
    problems = examine(healthy, tmp_path, audio=False).problems
    assert [(one.check, one.level) for one in problems] == [("text leak", PROBLEM)] * 2
    assert "100% of the sentences are said by another speaker too" in problems[0].message
    assert "UA 1.00 (chance 0.50)" in problems[0].message
    assert "UA 1.00 (chance 0.50; bag of words" in problems[1].message


def test_a_word_gives_the_label_away_without_any_sentence_said_twice(healthy: pd.DataFrame, tmp_path: Path) -> None:
    healthy["text"] = [f"number {row} {label}" for row, label in enumerate(healthy["label"])]
    finding = only_problem(examine(healthy, tmp_path, audio=False))
    assert "words alone tell the label of unheard speakers with UA 1.00" in finding.message


def test_words_of_a_speaker_alone_tell_nothing_of_others(healthy: pd.DataFrame, tmp_path: Path) -> None:
    """Each speaker has a word for each emotion: who has heard the speaker knows all, and nobody has."""
    healthy["text"] = [f"{row.speaker}{row.label} {row.Index}" for row in healthy.itertuples()]
    diagnosis = examine(healthy, tmp_path, audio=False)
    assert diagnosis.problems == []
    assert "UA 0.50 (chance 0.50" in note(diagnosis, "text leak").message


def test_remembered_sentences_against_a_plain_loop(healthy: pd.DataFrame, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    healthy["label"] = generator.choice(["angry", "happy", "sad"], len(healthy)).tolist()
    truth, guess = [], []
    for row in healthy.itertuples():
        others = healthy[(healthy.text == row.text) & (healthy.speaker != row.speaker)]["label"].tolist()
        truth.append(row.label)
        guess.append(sorted(set(others), key=lambda label: (-others.count(label), label))[0])
    messages = [finding.message for finding in examine(healthy, tmp_path, audio=False).findings]
    ua = balanced_accuracy_score(truth, guess)
    assert any(f"tells the label with UA {ua:.2f} (chance 0.33)" in message for message in messages)


def test_counts_against_the_published_ones(healthy: pd.DataFrame, tmp_path: Path) -> None:
    table = healthy.assign(corpus="iemocap", label_set="4class-exc-as-hap")
    messages = [one.message for one in examine(table, tmp_path, audio=False).problems if one.check == "counts"]
    assert "IEMOCAP: found 32 utterances, expected 5531 as published" in messages
    assert "IEMOCAP: found 0 utterances of session 'Ses03', expected 1151 as published" in messages
    again = [one.message for one in examine(healthy, tmp_path, audio=False, corpus="iemocap").problems]
    assert set(messages) <= set(again)


def test_iemocap_as_published_has_the_published_counts(tmp_path: Path) -> None:
    (published,) = CORPORA["iemocap"].label_sets["4class-exc-as-hap"].published
    sessions = [name for name, number in published.counts["session"].items() for _ in range(number)]
    labels = [name for name, number in published.counts["label"].items() for _ in range(number)]
    table = pd.DataFrame({"utterance_id": [f"u{row}" for row in range(5_531)], "session": sessions, "label": labels})
    table = table.assign(audio="x.wav", speaker=[f"{s}_{'FM'[row % 2]}" for row, s in enumerate(sessions)])
    table = table.assign(corpus="iemocap", label_set="4class-exc-as-hap")
    diagnosis = examine(table, tmp_path, audio=False)
    assert diagnosis.problems == []
    assert note(diagnosis, "counts").message == "IEMOCAP, 4class-exc-as-hap: counts are as published"
    short = [one.message for one in examine(table.iloc[1:], tmp_path, audio=False).problems]
    assert short == [
        "IEMOCAP: found 5530 utterances, expected 5531 as published",
        "IEMOCAP: found 1707 utterances of label 'neu', expected 1708 as published",
        "IEMOCAP: found 1084 utterances of session 'Ses01', expected 1085 as published",
    ]


@pytest.mark.parametrize(
    ("corpus", "labels", "parts"),
    [
        ("cmu-mosi", "sentiment3", (1_284, 229, 686)),
        ("cmu-mosei", "sentiment7", (16_327, 1_871, 4_662)),
        ("cmu-mosei", "sentiment7", (16_326, 1_871, 4_659)),
        ("cmu-mosei", "emotion6", (16_327, 1_871, 4_662)),
    ],
)
def test_either_list_of_a_corpus_has_published_counts(corpus: str, labels: str, parts: tuple[int, ...]) -> None:
    split = [name for name, number in zip(("train", "dev", "test"), parts, strict=True) for _ in range(number)]
    label_set = CORPORA[corpus].label_sets[labels]
    assert miscounted("X", label_set, pd.DataFrame({"split": split})) == []
    assert miscounted("X", label_set, pd.DataFrame({"split": split[:-1]})) != []


def test_a_cache_that_lacks_and_contradicts(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "toy")
    ratings = [2.5, 3.0, None]  # the last, not known on either side, contradicts nothing
    edit_manifest(path, lambda table: table.insert(2, "arousal", (ratings * len(table))[: len(table)]))
    cache = Cache(path)
    manifest = cache.manifest
    whole = diagnose(manifest, {}, cache=cache, audio=False)
    assert "cache" not in {finding.check for finding in whole.findings}
    label = manifest.column("label")[0]
    table = manifest.table.copy()
    table.loc[0, "label"] = "other"
    table.loc[1, "arousal"] = table["arousal"][1] + 1
    table = pd.concat([table, table.iloc[[0]].assign(utterance_id="new")], ignore_index=True)
    findings = diagnose(Manifest(table, manifest.base), {}, cache=cache, audio=False).findings
    found = [finding for finding in findings if finding.check == "cache"]
    assert len(found) == len(cache.stream_names) + 2
    assert all(finding.utterances == ("new",) for finding in found[:-2])
    assert found[-1].utterances == (manifest.ids[1],)
    assert "another arousal in the cache's manifest" in found[-1].message
    assert any(f"1 of {len(table)} utterances are not in {POOLED}" in finding.message for finding in found)
    assert f"another label in the cache's manifest, such as {manifest.ids[0]!r}: {label!r} there, 'other' here" in (
        found[-2].message
    )


def run(*arguments: object) -> Said:
    return mmser("doctor", *arguments)


def test_the_command(healthy: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    write_manifest(Manifest(healthy, tmp_path), path)
    write_excluded({"x": "its recording is not there", "y": "its recording is not there"}, path)
    well = run(path)
    assert well.exit_code == 0, well.output
    assert "m.csv: 32 utterances\n  label: 16 angry, 16 sad\n" in well.stdout
    assert "Note (excluded): 2 left out: its recording is not there\n    x, y\n" in well.stdout
    assert f"{tmp_path / 'm.excluded.csv'} names all 2 that are left out, and why\n" in well.stdout
    assert well.stdout.endswith("No problems\n")
    (tmp_path / "b1sad.wav").write_bytes((tmp_path / "a0angry.wav").read_bytes())
    ill = run(path)
    assert ill.exit_code == EXIT_PROBLEMS
    assert "Problem (duplicates): 1 recordings are there under several ids" in ill.stdout
    assert "    keep one of each" in ill.stdout
    assert ill.stdout.endswith("1 problem\n")
    told = run(path, "--json")
    assert told.exit_code == EXIT_PROBLEMS
    report = json.loads(told.stdout)
    assert report["num_problems"] == 1
    assert report["counts"]["label"] == {"angry": 16, "sad": 16}
    assert report["excluded"] == {"x": "its recording is not there", "y": "its recording is not there"}
    (problem,) = [finding for finding in report["findings"] if finding["level"] == PROBLEM]
    assert problem["utterances"] == ["a0angry", "b1sad"]
    assert run(path, "--no-audio").exit_code == 0
    wrong = run(path, "--corpus", "iemocap:5class")
    assert (wrong.exit_code, "iemocap has no label set '5class'" in wrong.stderr) == (1, True)


@pytest.mark.data
def test_the_real_emodb_is_well(speech_data: Path, tmp_path: Path) -> None:
    folder = speech_data / "emodb"
    mmser("manifest", "emodb", folder, "--out", tmp_path / "m.csv")
    result = run(tmp_path / "m.csv", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert {finding["check"] for finding in report["findings"]} == {"counts", "text leak"}
