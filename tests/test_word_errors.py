"""Word error rates against jiwer over the whole, hand counts, and the plain edit distance."""

import json
from pathlib import Path

import jiwer
import numpy as np
import pandas as pd
import pytest
from small_corpus import mmser

from mmser.errors import ManifestError
from mmser.manifest import Manifest, write_manifest
from mmser.transcribe.word_errors import Spelling, compare, count_errors, spell


def table(**columns: list[str]) -> Manifest:
    ids = [f"u{i}" for i in range(len(next(iter(columns.values()))))]
    return Manifest(pd.DataFrame({"utterance_id": ids, "audio": "a.wav", **columns}), Path())


def random_texts(num: int, most: int, seed: int, least: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(list("abcd"), rng.integers(least, most + 1))) for _ in range(num)]


def test_hand_counts() -> None:
    truth = ["the cat sat", "on the mat", "yes"]
    heard = ["the bat sat down", "on mat", ""]
    assert count_errors(truth, heard).tolist() == [[3, 1, 0, 1], [3, 0, 1, 0], [1, 0, 1, 0]]
    found = compare(table(text=truth, asr_text=heard), "text", "asr_text", []).overall
    assert (found.words, found.substitutions, found.deletions, found.insertions) == (7, 1, 2, 1)
    assert found.rate == pytest.approx(4 / 7)
    assert found.interval is None


def distance(a: list[str], b: list[str]) -> int:
    """Levenshtein's, by its definition."""
    rows = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, rows = rows, [i]
        for j, y in enumerate(b, 1):
            rows.append(min(above[j] + 1, rows[-1] + 1, above[j - 1] + (x != y)))
    return rows[-1]


def test_counts_are_the_edit_distance_and_jiwer_s_over_the_whole() -> None:
    truth, heard = random_texts(60, 9, 0, least=1), random_texts(60, 9, 1)
    counts = count_errors(truth, heard)
    assert counts[:, 1:].sum(1).tolist() == [distance(t.split(), h.split()) for t, h in zip(truth, heard, strict=True)]
    whole = jiwer.process_words(truth, heard)
    assert counts.sum(0)[1:].tolist() == [whole.substitutions, whole.deletions, whole.insertions]
    found = compare(table(text=truth, asr_text=heard), "text", "asr_text", [])
    assert found.overall.rate == pytest.approx(jiwer.wer(truth, heard))


def test_groups_add_up_and_intervals_resample_speakers() -> None:
    truth, heard = random_texts(60, 9, 2, least=1), random_texts(60, 9, 3)
    labels, speakers = [["sad", "joy", ""][i % 3] for i in range(60)], [f"s{i % 4}" for i in range(60)]
    found = compare(
        table(text=truth, asr_text=heard, label=labels, speaker=speakers), "text", "asr_text", ["label", "speaker"]
    )
    assert list(found.groups["label"]) == ["", "joy", "sad"]
    for groups in found.groups.values():
        for name in ("utterances", "words", "substitutions", "deletions", "insertions"):
            assert sum(getattr(one, name) for one in groups.values()) == getattr(found.overall, name)
    sad = [i for i in range(60) if labels[i] == "sad"]
    assert found.groups["label"]["sad"].rate == pytest.approx(
        jiwer.wer([truth[i] for i in sad], [heard[i] for i in sad])
    )
    assert all(one.interval is None for one in found.groups["speaker"].values())
    interval = found.overall.interval
    assert interval is not None
    assert (interval.clusters, interval.unit) == (4, "speaker")
    # all ways to draw 4 speakers of 4 with replacement, each as likely as the next
    counts = count_errors(truth, heard)
    by_speaker = np.stack([counts[i::4].sum(0) for i in range(4)])
    draws = np.stack(np.meshgrid(*[range(4)] * 4), -1).reshape(-1, 4)
    sums = by_speaker[draws].sum(1)
    low, high = np.quantile(sums[:, 1:].sum(1) / sums[:, 0], [0.025, 0.975])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.02)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't -- STOP, it’s 'fine'!", "don't stop it's fine"),
        ("[LAUGHTER] Well [door slams]<unk>", "well"),
        ("Straße naïve Ｆull", "strasse naïve full"),
        ("well-known e.g. 3,5", "well known e g 3 5"),
        ("हिन्दी बोली।", "हिन्दी बोली"),
        (" ... ", ""),
        ("东西 two。2号", "东 西 two 2 号"),
        ("スーパー、ﾃﾞｽ", "ス ー パ ー デ ス"),
        ("안녕 하세요.", "안녕 하세요"),
    ],
)
def test_texts_are_compared_as_words(text: str, words: str) -> None:
    assert spell(text) == words


@pytest.mark.parametrize("sign", "'‘’‛`´ʼ＇")
def test_an_apostrophe_is_one_however_it_is_written(sign: str) -> None:
    assert spell(f"I can{sign}t, {sign}really{sign}") == "i can't really"


@pytest.mark.parametrize("comma", ["，", ",", " ", ""])
def test_chinese_is_compared_by_characters(comma: str) -> None:
    truth, heard = "打远一看，它们的确很是美丽。", f"打远一看{comma}他们的确很是美丽"
    assert count_errors([spell(truth)], [spell(heard)]).tolist() == [[12, 1, 0, 0]]
    found = compare(table(text=[truth, "well 好"], asr_text=[heard, "well"]), "text", "asr_text", [])
    assert (found.overall.words, found.num_characters) == (14, 13)
    assert spell(truth, Spelling(punctuation=True)).split()[3:5] == ["看,", "它"]


def test_case_and_punctuation_count_where_they_are_to() -> None:
    assert spell("Well, I", Spelling(case=True)) == "Well I"
    assert spell("Well, [x] I!", Spelling(punctuation=True)) == "well, i!"


def test_what_has_no_reference_is_left_out_and_what_was_not_heard_counts() -> None:
    manifest = table(text=["a b", "", "[LAUGHTER]", "c d", "e"], asr_text=["a b", "x", "y", "", ""])
    found = compare(manifest, "text", "asr_text", [], not_transcribed=["u4"])
    assert (found.num_without_reference, found.num_not_transcribed, found.num_unheard) == (2, 1, 1)
    assert (found.overall.utterances, found.overall.words, found.overall.deletions) == (2, 4, 2)
    with pytest.raises(ManifestError, match="no utterance has a word in column 'text'"):
        compare(manifest.select(["u1", "u2"]), "text", "asr_text", [])
    with pytest.raises(ManifestError, match=r"no column 'asr_txt'; .* Did you mean 'asr_text'"):
        compare(manifest, "text", "asr_txt", [])


def test_the_command(tmp_path: Path) -> None:
    manifest = table(
        text=["A b.", "c d", "e", ""], asr_text=["a x", "c d", "", ""], label=["joy", "sad", "joy", "joy"],
        speaker=["s1", "s2", "s1", "s2"],
    )  # fmt: skip
    write_manifest(manifest, tmp_path / "asr.csv")
    (tmp_path / "asr.failed.csv").write_text("utterance_id,streams,reason\nu2,asr_text,damaged\n")
    shown = mmser("wer", tmp_path / "asr.csv")
    assert shown.exit_code == 0, shown.stderr
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["all", "0.250", "0.000", "to", "0.500", "2", "4", "1", "0", "0"] in lines
    assert ["joy", "0.500", "-", "1", "2", "1", "0", "0"] in lines
    assert ["s2", "0.000", "-", "1", "2", "0", "0", "0"] in lines
    assert "Left out: 1 without a word in column text, 1 not transcribed" in shown.stdout
    found = json.loads(mmser("wer", tmp_path / "asr.csv", "--by", "label", "--case", "--punctuation", "--json").stdout)
    assert found["overall"]["substitutions"] == 2
    assert list(found["groups"]) == ["label"]
    assert (found["without_reference"], found["not_transcribed"], found["case"]) == (1, 1, True)
    wrong = mmser("wer", tmp_path / "asr.csv", "--by", "lable")
    assert wrong.exit_code == 1
    assert "no column 'lable'" in wrong.stderr
    write_manifest(table(text=["你好"], asr_text=["你"]), tmp_path / "zh.csv")
    assert "Counted as words: 2 Han or kana characters" in mmser("wer", tmp_path / "zh.csv").stdout
