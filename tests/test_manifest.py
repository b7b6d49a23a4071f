"""Manifests: what is read is what was written, and what is wrong is named."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmser.errors import ManifestError
from mmser.manifest import NUMBER_COLUMNS, Manifest, merge, read_manifest, write_manifest

FORMATS = ("csv", "tsv", "jsonl", "parquet")


def written(folder: Path, content: str | bytes, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def made(base: Path = Path("."), **columns: list[object]) -> Manifest:
    columns.setdefault("audio", [f"{i}.wav" for i in columns["utterance_id"]])
    return Manifest(pd.DataFrame(columns, dtype=object), base)


def test_cells_stay_what_they_are(tmp_path: Path) -> None:
    text = 'utterance_id,audio,text,fold\n007,a.wav,NA,01\n1e5,b.wav,"None, ""null""\nand more",1.0\nTrue,c.wav,,\n'
    m = read_manifest(written(tmp_path, text))
    assert m.ids == ["007", "1e5", "True"]
    assert list(m.column("text")) == ["NA", 'None, "null"\nand more', ""]
    assert list(m.column("fold")) == ["01", "1.0", ""]
    assert m.column("text").dtype == object


def test_byte_order_mark_crlf_blank_rows_and_padded_names(tmp_path: Path) -> None:
    text = "\ufeff utterance_id , audio,label,,\r\n\r\na,a.wav,sad,,\r\nb,b.wav\r\n , ,,,\r\n,,,,\r\n\r\n"
    m = read_manifest(written(tmp_path, text))
    assert list(m.table.columns) == ["utterance_id", "audio", "label"]
    assert m.table.values.tolist() == [["a", "a.wav", "sad"], ["b", "b.wav", ""]]


def test_numbers_are_float64_and_missing_ones_nan(tmp_path: Path) -> None:
    m = read_manifest(written(tmp_path, "utterance_id,audio,valence,start_s,end_s\na,a,3,,\nb,b,NaN,0.5,1e1\nc,c,,,\n"))
    np.testing.assert_array_equal(m.column("valence"), [3.0, np.nan, np.nan])
    assert m.column("valence").dtype == np.float64
    first, second, _ = m.utterances()
    assert (first.start_s, first.end_s, first.fields) == (None, None, {"valence": 3.0})
    assert (second.start_s, second.end_s, second.fields) == (0.5, 10.0, {})


def test_json_numbers_stay_as_written(tmp_path: Path) -> None:
    lines = '{"utterance_id": 1e5, "audio": "a.wav", "valence": 2.5, "fold": 3, "text": "\u2028 line"}\n\n'
    lines += '{"utterance_id": 12345678901234567890, "audio": "b.wav", "session": null, "own": true}\n'
    m = read_manifest(written(tmp_path, lines, "m.jsonl"))
    assert m.ids == ["1e5", "12345678901234567890"]
    assert list(m.table.columns) == ["utterance_id", "audio", "valence", "fold", "text", "session", "own"]
    assert list(m.column("fold")) == ["3", ""]
    assert list(m.column("text")) == ["\u2028 line", ""]
    assert list(m.column("own")) == ["", "True"]


def test_parquet_of_any_origin(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"audio": ["a.wav", "b.wav"], "fold": [1, None], "valence": [2, 3], "label": pd.Categorical(["x", "y"])},
        index=pd.Index(["a", "b"], name="utterance_id"),
    )
    frame.to_parquet(tmp_path / "m.parquet")
    m = read_manifest(tmp_path / "m.parquet")
    assert sorted(m.table.columns) == ["audio", "fold", "label", "utterance_id", "valence"]
    assert list(m.column("fold")) == ["1", ""]
    assert list(m.column("label")) == ["x", "y"]
    assert m.column("valence").dtype == np.float64


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_is_read(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    cell = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
    number = st.floats(allow_nan=True, allow_infinity=False)
    rows = data.draw(st.lists(st.tuples(cell, cell, number), min_size=1, max_size=5))
    texts, labels, valences = (list(column) for column in zip(*rows, strict=True))
    m = made(tmp_path, utterance_id=[f"u{i}" for i in range(len(rows))], text=texts, label=labels, valence=valences)
    write_manifest(m, tmp_path / f"m.{suffix}")
    pd.testing.assert_frame_equal(read_manifest(tmp_path / f"m.{suffix}").table, m.table, check_exact=True)


def test_audio_is_found_from_wherever_the_manifest_is_written(tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    out.mkdir()
    elsewhere = os.path.join(os.sep, "elsewhere", "c.wav")
    m = made(corpus, utterance_id=["a", "b", "c"], audio=["wav/a.wav", "../out/b.wav", elsewhere])
    write_manifest(m, out / "m.csv")
    again = read_manifest(out / "m.csv")
    assert list(again.column("audio")) == [str(corpus / "wav" / "a.wav"), "b.wav", elsewhere]
    resolved = [os.path.normpath(u.audio) for u in m.utterances()]
    assert [os.path.normpath(u.audio) for u in again.utterances()] == resolved


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_lines_end_the_same_on_every_machine(tmp_path: Path, suffix: str) -> None:
    write_manifest(made(tmp_path, utterance_id=["a", "b"]), tmp_path / f"m.{suffix}")
    content = (tmp_path / f"m.{suffix}").read_bytes()
    assert b"\r" not in content
    assert content.endswith(b"\n")


def test_writing_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m = made(utterance_id=["a"])
    write_manifest(m, tmp_path / "m.csv")
    before = (tmp_path / "m.csv").read_bytes()

    def full(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_manifest(made(utterance_id=["b"]), tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_bytes() == before
    assert os.listdir(tmp_path) == ["m.csv"]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"utterance_id,audio\n", "m.csv", r"m\.csv' has no rows"),
        (b"", "m.csv", "is empty: expected a header"),
        (b" \r\n\r\n", "m.jsonl", "is empty: expected a header"),
        (b",,\n,,\n", "m.csv", "has no header"),
        (b"utterance_id,audio\na,a.wav\n", "m.xlsx", r"suffix '\.xlsx'; expected one of \.csv, \.tsv, \.jsonl, \.par"),
        (
            b"utterance_id,file\na,a.wav\n",
            "m.csv",
            "no column 'audio'; it has utterance_id, file: rename 'file' to 'au",
        ),
        (b"ID,audio\na,a.wav\n", "m.csv", "no column 'utterance_id'; it has ID, audio: rename 'ID' to 'utterance_id'"),
        (b"utterance_id;audio\na;a.wav\n", "m.csv", "separated by semicolons; save it with commas"),
        (b"utterance_id,audio,label,label\na,a.wav,x,y\n", "m.csv", "has column 'label' twice"),
        (b"utterance_id,audio,,label\na,a.wav,x,y\n", "m.csv", "column 3 has no name"),
        (b"utterance_id,audio\na,a.wav\n\na,b.wav\nb,b\n", "m.csv", r"not: 'a' \(rows 2, 4\)$"),
        (b"utterance_id,audio\na,a.wav\n../x,b.wav\n", "m.csv", r"row 3: utterance id '\.\./x' looks like a path"),
        (b"utterance_id,audio\na,a.wav\nb,\n", "m.csv", "'audio', row 3: found '', expected the path of a recording"),
        (b"utterance_id,audio,valence\na,a,1\nb,b,high\n", "m.csv", "'valence', row 3: found 'high', expected a num"),
        (b"utterance_id,audio,end_s\na,a,inf\n", "m.csv", "'end_s', row 2: found 'inf', expected a number"),
        (b'utterance_id,audio,end_s\na,a,"1,5"\n', "m.csv", "row 2: found '1,5', expected a number such as 2.5"),
        (b"utterance_id,audio,start_s\na,a,-0.1\n", "m.csv", "row 2: start_s -0.1 and end_s nan are no span of time"),
        (b"utterance_id,audio,start_s,end_s\na,a,2,2\n", "m.csv", "row 2: start_s 2 and end_s 2 are no span of time"),
        (b"utterance_id,audio,text\na,a,hi\nb,b,well, yes\n", "m.csv", r"row 3: found 4 fields, expected 3 \(utter"),
        (b'utterance_id,audio,text\na,a,"hi\nb,b,yes\n', "m.csv", "m.csv', line 3: unexpected end of data"),
        (b"utterance_id,audio,text\na,a,hi\nb,b,gr\xfc\xdfe\n", "m.csv", "not UTF-8: byte 0xfc in line 3; save it as"),
        ("utterance_id,audio\na,a\n".encode("utf-16"), "m.csv", "not UTF-8: byte 0xff in line 1"),
        (b'{"utterance_id": "a"\n', "m.jsonl", "line 1: .*; expected one JSON object a line"),
        (b'{"utterance_id": "a", "audio": "a"}\n[1]\n', "m.jsonl", r"line 2: found '\[1\]', expected a JSON object"),
        (b'{"utterance_id": "a", "audio": "a", "audio": "b"}\n', "m.jsonl", "line 1: key 'audio' is there twice"),
        (b'{"utterance_id": "a", "audio": "a", "text": ["b"]}\n', "m.jsonl", r"'text', row 1: found \['b'\], expected"),
        (b'{"utterance_id": "a", "audio": "a", "text": "\\ud800"}\n', "m.jsonl", "line 1: .*surrogates not allowed"),
        (b"[" * 200_000, "m.jsonl", "line 1: .*; expected one JSON object"),
        (b"no parquet", "m.parquet", "is no readable Parquet file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: bytes, name: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_manifest(written(tmp_path, content, name))


def test_a_whole_number_that_is_too_large_is_named() -> None:
    with pytest.raises(ManifestError, match=r"'end_s', row 0: found 10+, expected a number such as 2\.5, or nothing"):
        made(utterance_id=["a"], end_s=pd.Series([10**400], dtype=object))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.csv' is not there; expected a file"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ManifestError, match=r"folder\.csv' is a folder"):
        read_manifest(tmp_path / "folder.csv")
    with pytest.raises(ManifestError, match="its folder is not there"):
        write_manifest(made(utterance_id=["a"]), tmp_path / "none" / "m.csv")


def test_only_the_first_few_duplicates_are_named() -> None:
    with pytest.raises(ManifestError, match=r"'a' \(rows 0, 1, 2 and 1 more\), 'b' .*, 'c' .* and 1 more$"):
        made(utterance_id=list("aaaabbccdd"))


def test_an_unknown_column_is_named_with_the_closest() -> None:
    with pytest.raises(ManifestError, match=r"no column 'speakr'; it has .*Did you mean 'speaker'\?"):
        made(utterance_id=["a"], speaker=["s"]).column("speakr")


def test_column_is_a_copy() -> None:
    m = made(utterance_id=["a"], valence=[1.0])
    m.column("valence")[0] = 5.0
    m.column("utterance_id")[0] = "x"
    assert m.column("valence")[0] == 1.0
    assert m.ids == ["a"]


def test_select_by_id_and_by_mask() -> None:
    m = made(utterance_id=["a", "b", "c"], label=["x", "y", "z"])
    assert m.select(["c", "a"]).table.values.tolist() == [["c", "z", "c.wav"], ["a", "x", "a.wav"]]
    assert m.select(m.column("label") != "y").ids == ["a", "c"]
    assert len(m.select([])) == 0
    with pytest.raises(ManifestError, match=r"no utterance 'bb', 'd'\. Did you mean 'b'\?"):
        m.select(["a", "bb", "d"])


def test_merge_replaces_keeps_and_appends(tmp_path: Path) -> None:
    old = made(tmp_path, utterance_id=["a", "b"], label=["x", "y"], valence=[1.0, 2.0])
    new = made(tmp_path / "new", utterance_id=["c", "a"], text=["see", "ay"])
    both = merge(old, new)
    assert both.ids == ["a", "b", "c"]
    assert list(both.column("label")) == ["", "y", ""]
    assert list(both.column("text")) == ["ay", "", "see"]
    np.testing.assert_array_equal(both.column("valence"), [np.nan, 2.0, np.nan])
    assert [u.audio for u in both.utterances()] == [tmp_path / "new/a.wav", tmp_path / "b.wav", tmp_path / "new/c.wav"]


def test_a_manifest_of_a_large_corpus_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "big.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["utterance_id", "audio", "text", "speaker", "label", *NUMBER_COLUMNS])
        for i in range(200_000):
            writer.writerow([f"MSP-PODCAST_{i:06d}", f"wav/{i}.wav", "well, yes", i % 1400, "N", "", "", 3.5, 4.25, 4])
    manifest = read_manifest(path)
    assert len(manifest) == 200_000
    assert manifest.ids[-1] == "MSP-PODCAST_199999"
    assert manifest.column("arousal").sum() == 3.5 * 200_000


def test_json_lines_can_be_read_by_others(tmp_path: Path) -> None:
    write_manifest(made(tmp_path, utterance_id=["ä"], valence=[2.5], text=[None]), tmp_path / "m.jsonl")
    line = (tmp_path / "m.jsonl").read_text(encoding="utf-8")
    assert json.loads(line) == {"utterance_id": "ä", "valence": 2.5, "text": None, "audio": "ä.wav"}
