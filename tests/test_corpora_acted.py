"""Corpora of read sentences, in miniatures of their exact file formats: everything is in the names, and the faults."""

from pathlib import Path

import pytest
from small_speech import write_noise, write_text

from mmser.audio import read_audio
from mmser.corpora import Reading, Request, read_corpus
from mmser.errors import ManifestError


def rows_of(reading: Reading) -> dict[str, dict[str, object]]:
    return {row["utterance_id"]: row for row in reading.manifest.table.to_dict("records")}


def test_ravdess_is_stereo_at_48_khz_and_half_songs(tmp_path: Path) -> None:
    write_noise(tmp_path / "Actor_01" / "03-01-05-02-01-01-01.wav", rate=48_000, channels=2)
    write_noise(tmp_path / "Actor_02" / "03-01-01-01-02-02-02.wav", rate=48_000)
    write_noise(tmp_path / "Actor_02" / "03-02-01-01-02-02-02.wav", rate=48_000)
    # Kaggle's copy has the whole tree twice
    write_noise(tmp_path / "audio" / "Actor_02" / "03-01-01-01-02-02-02.wav", rate=48_000)
    reading = read_corpus("ravdess", Request(tmp_path))
    rows = rows_of(reading)
    assert list(rows) == ["03-01-01-01-02-02-02", "03-01-05-02-01-01-01"]
    angry = rows["03-01-05-02-01-01-01"]
    assert [angry[c] for c in ("label", "speaker", "gender", "intensity", "text")] == [
        "angry", "01", "male", "strong", "Kids are talking by the door."
    ]  # fmt: skip
    neutral = rows["03-01-01-01-02-02-02"]
    assert (neutral["gender"], neutral["audio"]) == ("female", "Actor_02/03-01-01-01-02-02-02.wav")
    assert reading.excluded == {"03-02-01-01-02-02-02": "a song, not speech"}
    assert "1 recordings lie there twice, one of each is taken" in reading.manifest.warnings[0]
    assert len(read_audio(tmp_path / str(angry["audio"])).samples) == 4_000


def test_savee_has_one_id_in_either_layout(tmp_path: Path) -> None:
    write_noise(tmp_path / "a" / "AudioData" / "DC" / "sa01.wav", rate=44_100)
    write_noise(tmp_path / "a" / "AudioData" / "KL" / "n30.wav", rate=44_100)
    write_noise(tmp_path / "a" / "AudioData" / "DC" / "._sa01.wav", rate=44_100)
    write_noise(tmp_path / "b" / "ALL" / "DC_sa01.wav", rate=44_100)
    write_noise(tmp_path / "b" / "ALL" / "KL_n30.wav", rate=44_100)
    write_noise(tmp_path / "b" / "ALL" / "XX_n30.wav", rate=44_100)
    one, other = (read_corpus("savee", Request(tmp_path / name)) for name in "ab")
    assert list(rows_of(one)) == list(rows_of(other)) == ["DC_sa01", "KL_n30"]
    assert list(one.manifest.column("label")) == ["sadness", "neutral"]
    assert list(one.manifest.column("speaker")) == ["DC", "KL"]
    assert other.excluded == {"XX_n30.wav": "not named like 'DC/a01' or 'DC_a01'"}
    both = read_corpus("savee", Request(tmp_path))
    assert list(rows_of(both)) == ["DC_sa01", "KL_n30"]
    assert "SAVEE: 2 recordings lie there twice, one of each is taken: 'DC_sa01', 'KL_n30'" in both.manifest.warnings


def test_tess_knows_its_misnamed_file(tmp_path: Path) -> None:
    write_noise(tmp_path / "OAF_neutral" / "OA_bite_neutral.wav", rate=24_414)
    write_noise(tmp_path / "OAF_Pleasant_surprise" / "OAF_back_ps.wav", rate=24_414)
    write_noise(tmp_path / "YAF_fear" / "YAF_neat_fear.wav", rate=24_414)
    write_noise(tmp_path / "yaf_sour_Happy.wav", rate=24_414)  # some copies have no folders, and names as they like
    rows = rows_of(read_corpus("tess", Request(tmp_path)))
    assert set(rows) == {"OAF_bite_neutral", "OAF_back_ps", "YAF_neat_fear", "YAF_sour_happy"}
    assert rows["OAF_bite_neutral"]["audio"] == "OAF_neutral/OA_bite_neutral.wav"
    assert rows["OAF_bite_neutral"]["speaker"] == "OAF"
    assert rows["OAF_back_ps"]["label"] == "surprise"
    assert rows["YAF_neat_fear"]["text"] == "Say the word neat"
    # Kaggle's copy holds itself; others have mended the name
    write_noise(tmp_path / "TESS" / "YAF_fear" / "YAF_neat_fear.wav", rate=24_414)
    write_noise(tmp_path / "OAF_neutral" / "OAF_bite_neutral.wav", rate=24_414)
    reading = read_corpus("tess", Request(tmp_path))
    assert set(rows_of(reading)) == set(rows)
    assert reading.excluded == {"OA_bite_neutral.wav": "the same as OAF_neutral/OAF_bite_neutral.wav"}
    assert "TESS: 1 recordings lie there twice" in reading.manifest.warnings[0]


@pytest.fixture
def crema_d(tmp_path: Path) -> Path:
    for name in ("1001_IEO_HAP_LO", "1001_IEO_SAD_HI", "1002_MTI_NEU_XX", "1076_MTI_SAD_XX"):
        write_noise(tmp_path / "AudioWAV" / f"{name}.wav")
    write_text(
        tmp_path / "VideoDemographics.csv",
        '"ActorID","Age","Sex","Race","Ethnicity"\n"1001",51,"Male","Caucasian","Not Hispanic"\n'
        '"1002",21,"Female","Caucasian","Not Hispanic"\n',
    )
    write_text(
        tmp_path / "processedResults" / "tabulatedVotes.csv",
        '"","A","D","F","H","N","S","fileName","numResponses","agreement","emoVote"\n'
        '"100001",0,0,0,3,6,0,"1001_IEO_HAP_LO",9,0.667,"N"\n'
        '"100002",0,0,4,0,1,4,"1001_IEO_SAD_HI",9,0.444,"F:S"\n'
        '"200001",0,0,0,9,1,0,"1001_IEO_HAP_LO",10,0.9,"H"\n',
    )
    return tmp_path


def test_crema_d_votes_are_of_the_voice_alone(crema_d: Path) -> None:
    reading = read_corpus("crema-d", Request(crema_d))
    rows = rows_of(reading)
    happy = rows["1001_IEO_HAP_LO"]
    assert [happy[c] for c in ("label", "heard", "votes_happy", "votes_neutral", "intensity", "gender", "age")] == [
        "happy", "neutral", "3", "6", "low", "male", "51"
    ]  # fmt: skip
    assert rows["1001_IEO_SAD_HI"]["heard"] == ""  # a tie
    assert rows["1002_MTI_NEU_XX"]["text"] == "Maybe tomorrow it will be cold."
    assert rows["1002_MTI_NEU_XX"]["votes_neutral"] == "0"
    assert reading.excluded == {"1076_MTI_SAD_XX": "known to hold no signal"}


def test_crema_d_votes_are_numbers(crema_d: Path) -> None:
    table = crema_d / "processedResults" / "tabulatedVotes.csv"
    table.write_text(table.read_text().replace("0,0,0,3,6,0", "0,0,0,many,6,0"))
    with pytest.raises(ManifestError, match=r"tabulatedVotes\.csv: a count of votes is no number"):
        read_corpus("crema-d", Request(crema_d))


def test_crema_d_pointers_are_no_recordings(crema_d: Path) -> None:
    stub = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 70000\n"
    (crema_d / "AudioWAV" / "1002_MTI_NEU_XX.wav").write_bytes(stub)
    reading = read_corpus("crema-d", Request(crema_d))
    assert reading.excluded["1002_MTI_NEU_XX"].startswith("a git-lfs pointer")
    for path in (crema_d / "AudioWAV").iterdir():
        path.write_bytes(stub)
    with pytest.raises(ManifestError, match="are git-lfs pointers, not sound: run 'git lfs pull'"):
        read_corpus("crema-d", Request(crema_d))


@pytest.mark.parametrize(
    ("speaker", "encoding", "line", "text"),
    [
        ("0001", "gb2312", "0001_000001\t打远一看\t中立\r\n", "打远一看"),
        ("0003", "utf-16", "0003_000001\t打远一看\tNeutral\n", "打远一看"),
        ("0007", "utf-16-le", "0007_000001\t打远一看\t中立\n", "打远一看"),
        ("0011", "utf-8-sig", "0011_000001\tThe nine the eggs, I keep.\tNeutral\n", "The nine the eggs, I keep."),
        ("0013", "utf-16", "0013_000001\tThe nine the eggs.\tNeutral\n", "The nine the eggs."),
        ("0016", "latin-1", "0016_000001\tThe caf\xe9.\tNeutral\n", "The caf\xe9."),
        ("0017", "latin-1", "0017_000001\tSo na\xefve.\tNeutral\n", "So na\xefve."),
        ("0018", "gb2312", "0018_000001\tI don\u2019t know.\tNeutral\n", "I don\u2019t know."),
        ("0012", "utf-8", "0012_000001 Blanks, not tabs. Neutral\n", "Blanks, not tabs."),
        ("0015", "utf-8", "0015_000001\tNo label here.\n", "No label here."),
    ],
)
def test_esd_transcripts_come_in_every_encoding(
    tmp_path: Path, speaker: str, encoding: str, line: str, text: str
) -> None:
    home = tmp_path / speaker
    write_noise(home / "Neutral" / "train" / f"{speaker}_000001.wav")
    write_text(home / f"{speaker}.txt", line, encoding)
    row = rows_of(read_corpus("esd", Request(tmp_path)))[f"{speaker}_000001"]
    assert row["text"] == text
    assert row["language"] == ("zh" if speaker < "0011" else "en")


def test_esd_checks_folders_against_numbers(tmp_path: Path) -> None:
    write_noise(tmp_path / "0011" / "Neutral" / "evaluation" / "0011_000350.wav")
    write_noise(tmp_path / "0011" / "Angry" / "0011_000351.wav")  # some copies have no parts
    write_noise(tmp_path / "0011" / "Sad" / "test" / "0011_000352.wav")
    write_noise(tmp_path / "0001" / "Surprise" / "test" / "0001_001750.wav")
    reading = read_corpus("esd", Request(tmp_path))
    rows = rows_of(reading)
    assert [(row["label"], row["split"], row["gender"]) for row in rows.values()] == [
        ("Surprise", "test", "female"),
        ("Neutral", "dev", "male"),
        ("Angry", "", "male"),
    ]
    assert reading.excluded == {"0011_000352": "its folder is 'Sad', and its number is of 'Angry'"}
    assert "ESD: 3 recordings have no transcript" in reading.manifest.warnings[0]
    english = read_corpus("esd", Request(tmp_path), "english")
    assert english.excluded["0001_001750"] == "language 'zh' is not 'en', which label set english asks for"


def test_nemo_pads_its_speakers(tmp_path: Path) -> None:
    write_text(
        tmp_path / "data.tsv",
        "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage\n"
        'WR0_surprised_64.wav\tsurprised\tCzy to "prawda"?\tczy to prawda\t        WR0\tfemale\t24\n'
        "gone\tanger\tNie.\tnie\tWR0\tfemale\t24\n",
    )
    write_noise(tmp_path / "samples" / "WR0_surprised_64.wav", rate=24_000)
    reading = read_corpus("nemo", Request(tmp_path))
    (row,) = rows_of(reading).values()
    assert (row["utterance_id"], row["speaker"], row["text"]) == ("WR0_surprised_64", "WR0", 'Czy to "prawda"?')
    assert reading.excluded == {"gone": "its recording is not there"}
    (tmp_path / "data.tsv").write_text("file\temotion\n")
    with pytest.raises(ManifestError, match=r"data\.tsv: has no column 'file_id'; it has file, emotion"):
        read_corpus("nemo", Request(tmp_path))
