"""Every corpus that no training test takes through the doctor, in miniature, by the two commands.

A miniature has fewer utterances than the corpus, and has to be well in all else: rates, speakers, parts, transcripts.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from small_corpus import mmser
from small_speech import write_noise, write_text

from mmser.commands import EXIT_PROBLEMS
from mmser.corpora import CORPORA


def crema_d(folder: Path) -> None:
    for actor in ("1001", "1002"):
        for emotion in ("ANG", "HAP"):
            write_noise(folder / "AudioWAV" / f"{actor}_TIE_{emotion}_XX.wav", seconds=1)
    write_noise(folder / "AudioWAV" / "1076_MTI_SAD_XX.wav")
    write_text(folder / "VideoDemographics.csv", '"ActorID","Age","Sex"\n"1001",51,"Male"\n"1002",21,"Female"\n')


def savee(folder: Path) -> None:
    for speaker in ("DC", "JE"):
        for name in ("a01", "sa01", "su01"):
            write_noise(folder / "AudioData" / speaker / f"{name}.wav", rate=44_100)
    write_text(folder / "AudioData" / "DC" / "._a01.wav", "\0\5\x16\7")


def tess(folder: Path) -> None:
    for speaker in ("OAF", "YAF"):
        for word, emotion in (("back", "angry"), ("back", "neutral"), ("bite", "angry"), ("bite", "neutral")):
            name = "OA" if (speaker, word, emotion) == ("OAF", "bite", "neutral") else speaker
            write_noise(folder / f"{speaker}_{emotion}" / f"{name}_{word}_{emotion}.wav", rate=24_414, seconds=1)


def nemo(folder: Path) -> None:
    rows = ["file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage\n"]
    for speaker in ("WR0", "AB1"):
        for emotion in ("anger", "fear"):
            write_noise(folder / "samples" / f"{speaker}_{emotion}_1.wav", rate=24_000, seconds=1)
            rows.append(f"{speaker}_{emotion}_1.wav\t{emotion}\tCzy to?\tczy to\t        {speaker}\tfemale\t24\n")
    rows.append("WR0_fear_2.wav\tfear\tNie.\tnie\tWR0\tfemale\t24\n")
    write_text(folder / "data.tsv", "".join(rows))


def cmu_mosi(folder: Path) -> None:
    rows = ["video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"]
    for video, part in (("03bSnISJMiM", "train"), ("b-_x", "valid"), ("c", "test")):
        for clip, sentiment in ((1, -2.4), (2, 1.8)):
            rows.append(f"{video},{clip},A FILM,{sentiment},,,,,{part}\r\n")
            write_noise(folder / "Raw" / video / f"{clip}.wav", seconds=1)
    rows.append("c,3,GONE,0.2,,,,,test\r\n")
    write_text(folder / "label.csv", "".join(rows))


def cmu_mosei(folder: Path) -> None:
    rows = [",file,index,start,end,label2a,label2b,label6,label7,split\n"]
    for part, video in enumerate("abc"):
        write_noise(folder / "Raw" / "Audio" / "Full" / "WAV_16000" / f"{video}.wav", seconds=4)
        rows += [f"0,{video},0,-0.12,2.0,1,1,0,2,{part}\n", f"1,{video},1,2.0,4.0,0,-1,1,-2,{part}\n"]
        spoken = f"{video}___7___2.0___4.0___So, this.\n{video}___8___-0.12___2.0___So, this.\n"
        write_text(folder / "Raw" / "Transcript" / "Segmented" / "Combined" / f"{video}.txt", spoken)
    rows.append("2,c,2,0.0,1.0,1,1,0,2,3\n")
    write_text(folder / "CMU_MOSEI_Labels.csv", "".join(rows))


def audformat(folder: Path) -> None:
    columns = "{type: filewise, columns: {emotion: {}, speaker: {}}}"
    write_text(folder / "db.yaml", f"name: mini\nsource: x\nusage: research\ntables:\n  emotion: {columns}\n")
    rows = ["file,emotion,speaker\n"]
    for speaker in ("s1", "s2"):
        for emotion in ("angry", "happy"):
            write_noise(folder / "audio" / f"{speaker}{emotion}.wav")
            rows.append(f"audio/{speaker}{emotion}.wav,{emotion},{speaker}\n")
    rows.append("audio/gone.wav,happy,s2\n")
    write_text(folder / "db.emotion.csv", "".join(rows))


@dataclass(frozen=True)
class Miniature:
    build: Callable[[Path], None]
    speakers: dict[str, int]
    excluded: dict[str, str] = field(default_factory=dict)
    published: int = 0
    """How many there should be; 0: not known, or by the list that one has."""


MINIATURES = {
    "crema-d": Miniature(crema_d, {"1001": 2, "1002": 2}, {"1076_MTI_SAD_XX": "known to hold no signal"}, 7_441),
    "savee": Miniature(savee, {"DC": 3, "JE": 3}, published=480),
    "tess": Miniature(tess, {"OAF": 4, "YAF": 4}, published=2_800),
    "nemo": Miniature(nemo, {"AB1": 2, "WR0": 2}, {"WR0_fear_2": "its recording is not there"}, 4_481),
    "cmu-mosi": Miniature(cmu_mosi, {"03bSnISJMiM": 2, "b-_x": 2, "c": 2}, {"c_3": "no clip Raw/c/3.mp4"}, 2_199),
    "cmu-mosei": Miniature(cmu_mosei, {"a": 2, "b": 2, "c": 2}, {"c_2": "in none of the official parts"}),
    "audformat": Miniature(audformat, {"s1": 2, "s2": 2}, {"gone": "its recording is not there"}),
}

ELSEWHERE = {"iemocap", "ravdess", "esd", "msp-podcast", "msp-improv", "emodb", "meld"}
"""Those that test_corpus_to_table.py takes through the doctor, and on to a table."""


def test_every_corpus_sees_the_doctor() -> None:
    assert MINIATURES.keys() | ELSEWHERE == CORPORA.keys()


@pytest.mark.parametrize("name", MINIATURES)
def test_a_miniature_lacks_numbers_alone(name: str, tmp_path: Path) -> None:
    corpus, manifest = MINIATURES[name], tmp_path / "m.csv"
    corpus.build(tmp_path / "corpus")
    made = mmser("manifest", name, tmp_path / "corpus", "--out", manifest)
    assert made.exit_code == 0, made.output
    seen = mmser("doctor", manifest, "--json")
    assert seen.exit_code == (EXIT_PROBLEMS if corpus.published else 0), seen.output
    report = json.loads(seen.stdout)
    assert report["counts"]["speaker"] == corpus.speakers
    assert report["excluded"] == corpus.excluded
    problems = [finding for finding in report["findings"] if finding["level"] == "problem"]
    assert {finding["check"] for finding in problems} == ({"counts"} if corpus.published else set())
    if corpus.published:
        found = f"found {sum(corpus.speakers.values())} utterances, expected {corpus.published} as published"
        assert any(found in finding["message"] for finding in problems)
