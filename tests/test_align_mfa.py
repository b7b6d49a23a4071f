"""MFA through a stand-in that behaves as it does (tests/stand_in_mfa.py): MFA itself is not installed for tests."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from stand_in_mfa import StandIn

import mmser.extract.align.mfa_program as mfa_program
from mmser.errors import AlignmentError
from mmser.extract.align import AlignerOptions, Failed, Spoken, Waiting, make_aligner
from mmser.extract.align.mfa import MfaAligner, MfaSettings, read_scores, write_corpus
from mmser.extract.align.mfa_program import Models, align_command, call, check_usable, read_version
from mmser.records import Alignment, Kind

ENGLISH = Models("english_us_arpa", "english_us_arpa", "english_us_arpa", None)
FOLDERS = {"corpus": Path("in put"), "output": Path("out"), "temporary": Path("tmp")}


def spoken(uid: str, text: str, speaker: str = "", seconds: float = 1.0) -> Spoken:
    noise = np.random.default_rng(len(uid)).uniform(-0.1, 0.1, round(16_000 * seconds)).astype(np.float32)
    return Spoken(uid, noise, text, speaker)


def aligned(stand_in: StandIn, *utterances: Spoken, models: Models = ENGLISH) -> list[Alignment | Failed]:
    with MfaAligner(stand_in.command, models, jobs=2) as aligner:
        return list(aligner.align(utterances))


# --- commands


@pytest.mark.parametrize(
    ("version", "expected"),
    [((3, 2, 0), "align"), ((3, 4, 2), "align"), ((3, 4, 3), "align_legacy"), ((4, 0, 0), "align_legacy")],
)
def test_dictionary_and_acoustic_model_go_to_the_command_of_the_version(version: tuple, expected: str) -> None:
    command = align_command(version, ENGLISH, jobs=3, **FOLDERS)
    assert command == [
        expected, "in put", "english_us_arpa", "english_us_arpa", "out", "--g2p_model_path", "english_us_arpa",
        "--output_format", "long_textgrid", "-t", "tmp", "-j", "3", "--clean", "--final_clean", "--overwrite", "-q",
    ]  # fmt: skip


@pytest.mark.parametrize(("version", "expected"), [((3, 4, 0), "align_hf"), ((4, 0, 0), "align"), ((5, 1, 0), "align")])
def test_a_combined_model_goes_to_the_new_command(version: tuple, expected: str) -> None:
    models = Models("x", "y", "z", "MontrealCorpusTools/english_mfa")
    command = align_command(version, models, jobs=1, **FOLDERS)
    assert command[:5] == [expected, "in put", "MontrealCorpusTools/english_mfa", "out", "--use_g2p"]
    assert not {"x", "y", "z", "--g2p_model_path"} & set(command)
    with pytest.raises(AlignmentError, match=r"--mfa-model .* needs MFA 3\.4\.0 or newer, this is 3\.3\.9"):
        align_command((3, 3, 9), models, jobs=1, **FOLDERS)


@pytest.mark.parametrize("version", ["3.2.0", "3.4.3", "4.0.0"])
def test_every_version_aligns_by_either_form(tmp_path: Path, version: str) -> None:
    stand_in = StandIn(tmp_path, version=version)
    (one,) = aligned(stand_in, spoken("u", "Hi there."))
    assert isinstance(one, Alignment)
    if version != "3.2.0":
        combined = Models("english_us_arpa", "english_us_arpa", None, "english_mfa")
        (other,) = aligned(stand_in, spoken("u", "Hi there."), models=combined)
        assert repr(other) == repr(one)


@pytest.mark.parametrize(
    ("printed", "version"),
    [("3.4.3\n", (3, 4, 3)), ("a warning\n3.2\n", (3, 2, 0)), ("4.0.0a1.dev3+gabc", (4, 0, 0)), ("None", None)],
)
def test_versions(printed: str, version: tuple | None) -> None:
    assert read_version(printed) == version


# --- what can be wrong with the program


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(
        AlignmentError, match=r"'no-such-mfa' cannot be started .*conda create -n aligner -c conda-forge"
    ):
        check_usable("no-such-mfa")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mode": "no kalpy"}, r"No module named '_kalpy'.*installed with pip.*conda create -n aligner"),
        ({"mode": "no version"}, r"printed 'some warning of a library', expected e\.g\. 3\.4\.3"),
        ({"version": "2.2.17"}, r"MFA 2\.2\.17 is too old, 3\.2\.0 is the oldest .*conda update"),
    ],
)
def test_a_program_that_cannot_be_used(tmp_path: Path, config: dict[str, str], message: str) -> None:
    with pytest.raises(AlignmentError, match=message) as caught:
        check_usable(StandIn(tmp_path, **config).command)
    assert "\x1b" not in str(caught.value)
    assert "╭" not in str(caught.value)


@pytest.mark.parametrize("command", ["", "  ", "conda run -n 'aligner mfa"])
def test_a_command_that_is_none(command: str) -> None:
    with pytest.raises(AlignmentError, match="--mfa-command"):
        check_usable(command)


def test_a_program_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mfa_program, "_LOOK_S", 0.5)
    with pytest.raises(AlignmentError, match=r"did not answer within"):
        check_usable(StandIn(tmp_path, mode="hangs at version").command)


def test_a_model_that_is_not_installed(tmp_path: Path) -> None:
    models = Models("german_mfa", "german_mfa", None, None)
    with pytest.raises(
        AlignmentError, match=r'exit code 2: .*Could not find a model named "german_mfa".* mfa model download'
    ):
        aligned(StandIn(tmp_path), spoken("u", "Guten Tag"), models=models)


def test_a_crash_says_what_mfa_said(tmp_path: Path) -> None:
    with pytest.raises(AlignmentError, match="MFA stopped with exit code 1: Error MemoryError"):
        aligned(StandIn(tmp_path, mode="crashes"), spoken("u", "hi"))


def test_a_run_that_hangs_is_stopped(tmp_path: Path) -> None:
    stand_in = StandIn(tmp_path, mode="hangs")
    settings = MfaSettings(patience_s=1.5, patience_per_second=0.0)
    with pytest.raises(AlignmentError, match=r"did not align 1 utterances \(1 s of audio\) within 2 s"):
        list(MfaAligner(stand_in.command, ENGLISH, settings=settings).align([spoken("u", "hi")]))


def test_while_mfa_works_it_is_said_how_far_it_is_and_can_be_stopped(tmp_path: Path) -> None:
    """As by Ctrl-C: the meter raises where it is told how far the work is."""

    def stop_at_the_second(done: int) -> None:
        told.append(done)
        if len(told) == 2:
            raise KeyboardInterrupt

    told: list[int] = []
    aligner = MfaAligner(StandIn(tmp_path, mode="hangs").command, ENGLISH)
    assert isinstance(aligner, Waiting)
    aligner.waiting = stop_at_the_second
    with pytest.raises(KeyboardInterrupt):
        list(aligner.align([spoken("u", "hi")]))
    assert told == [0, 0]


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX's")
def test_what_a_killed_program_started_ends_with_it(tmp_path: Path) -> None:
    child = f"import time, pathlib; time.sleep(1.2); pathlib.Path({str(tmp_path / 'late')!r}).touch()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(subprocess.TimeoutExpired):
        call([sys.executable, "-c", parent], 0.6)
    threading.Event().wait(1.5)
    assert not (tmp_path / "late").exists()


# --- results


def test_words_syllables_phones_and_their_words_in_the_transcript(tmp_path: Path) -> None:
    (one,) = aligned(StandIn(tmp_path), spoken("u 1", "Well - I'm 21, [LAUGHTER] okay!"))
    assert isinstance(one, Alignment)
    said = [(w.label, w.parent) for w in one.words if w.kind is Kind.SPEECH]
    assert said == [("well", 0), ("i'm", 1), ("twenty", 2), ("one", 2), ("okay", 4)]
    assert [w.score for w in one.words if w.kind is Kind.SPEECH] == [-45.25] * 5
    assert np.isnan(one.words[0].score)
    assert one.words[0].kind is one.words[-1].kind is Kind.SILENCE
    assert (one.words[1].start_s, one.words[-2].end_s) == (pytest.approx(0.1), pytest.approx(0.9))
    assert [p.label for p in one.phones if p.kind is Kind.SPEECH] == ["HH", "AY1"] * 5
    assert [(s.label, s.parent) for s in one.syllables] == [("HH AY1", i) for i in range(1, 6)]
    assert one.flags == ()


def test_results_come_in_order_and_none_is_lost(tmp_path: Path) -> None:
    stand_in = StandIn(tmp_path, fail=["lost"], wide=["hard"], unknown=["zyzzyva"])
    given = [spoken("a", "we are lost"), spoken("b", "a hard one"), spoken("c", "fine"), spoken("d", "[LAUGHTER]"),
             spoken("e", "a zyzzyva")]  # fmt: skip
    results = aligned(stand_in, *given)
    assert [r.utterance_id for r in results] == list("abcde")
    lost, hard, fine, silent, odd = results
    assert isinstance(lost, Failed)
    assert "'a': MFA gave no TextGrid for it, with wide beams neither" in lost.reason
    assert isinstance(silent, Failed)
    assert "holds no spoken word" in silent.reason
    assert isinstance(hard, Alignment)
    assert hard.flags == ("wide-beam",)
    assert isinstance(fine, Alignment)
    assert fine.flags == ()
    assert isinstance(odd, Alignment)
    assert odd.flags == ("out-of-vocabulary:zyzzyva",)
    first, second = stand_in.calls
    assert "--beam" not in first
    assert second[-4:] == ["--beam", "100", "--retry_beam", "400"]
    assert [[file["words"] for file in seen] for seen in stand_in.seen][1] == [
        ["we", "are", "lost"],
        ["a", "hard", "one"],
    ]


@pytest.mark.parametrize("mode", ["no output", "complains"])
def test_exit_0_with_no_output_and_complaints_of_none_are_failures_by_name(tmp_path: Path, mode: str) -> None:
    stand_in = StandIn(tmp_path, mode=mode, fail=["hi"])
    (one,) = aligned(stand_in, spoken("u", "hi"))
    assert isinstance(one, Failed)
    assert "check that recording and transcript belong together" in one.reason
    assert ("no successful alignments" in one.reason) == (mode == "complains")
    assert len(stand_in.calls) == 2


def test_nothing_to_align_starts_no_mfa(tmp_path: Path) -> None:
    stand_in = StandIn(tmp_path)
    (one,) = aligned(stand_in, spoken("u", "..."))
    assert isinstance(one, Failed)
    assert stand_in.calls == []


# --- the corpus


def test_speakers_have_folders_so_that_mfa_adapts_to_them(tmp_path: Path) -> None:
    stand_in = StandIn(tmp_path)
    aligned(stand_in, spoken("a", "hi", "Ses01_F"), spoken("b", "hi", "../../x"), spoken("c", "hi", "Ses01_F"),
            spoken("d", "hi"), spoken("e", "hi"))  # fmt: skip
    homes = {file["file"]: file["speaker"] for file in stand_in.seen[0]}
    assert homes["u000000"] == homes["u000002"]
    assert len(set(homes.values())) == 4  # the two of nobody known are two
    assert "--single_speaker" not in stand_in.calls[0]
    aligned(stand_in, spoken("a", "hi"), spoken("b", "hi"))
    assert len({file["speaker"] for file in stand_in.seen[1]}) == 1
    assert "--single_speaker" in stand_in.calls[1]


def test_the_corpus_is_16_bit_with_the_words_as_the_dictionary_has_them(tmp_path: Path) -> None:
    loud = Spoken("u", np.array([0.5, -2.0, 2.0, 0.0] * 1000, np.float32), "Grüße an 21 Leute, [LACHEN]!")
    write_corpus({"u1": loud}, tmp_path, english=False)
    (wav,), (lab,) = tmp_path.rglob("*.wav"), tmp_path.rglob("*.lab")
    samples, rate = soundfile.read(wav, dtype="int16")
    assert (rate, soundfile.info(wav).subtype, samples[:4].tolist()) == (16_000, "PCM_16", [16384, -32768, 32767, 0])
    assert lab.read_text(encoding="utf-8") == "Grüße an 21 Leute, [LACHEN]!\n"
    write_corpus({"u1": Spoken("u", loud.samples, "Um,  21 [LAUGHTER]\nyears!")}, tmp_path, english=True)
    assert lab.read_text(encoding="utf-8") == "um twenty one years\n"


@pytest.mark.parametrize(
    ("content", "scores"),
    [
        ("", {}),
        ("file,begin\nu1,0\n", {}),
        ("file,speech_log_likelihood\nu1,-3.5\nu2,\nu3,none\n", {"u1": -3.5}),
    ],
)
def test_scores(tmp_path: Path, content: str, scores: dict[str, float]) -> None:
    (tmp_path / "a.csv").write_text(content)
    assert read_scores(tmp_path / "a.csv") == scores
    assert read_scores(tmp_path / "none.csv") == {}


# --- options


def test_the_recipe_names_version_and_models_with_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn(tmp_path)
    model = tmp_path / "root" / "pretrained_models" / "acoustic" / "english_us_arpa.zip"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"")
    monkeypatch.setenv("MFA_ROOT_DIR", str(tmp_path / "root"))
    with make_aligner(AlignerOptions("mfa", mfa_command=stand_in.command)) as aligner:
        recipe = aligner.recipe
    assert recipe["mfa"] == "3.4.3"
    assert recipe["models"] == {
        "dictionary": {"name": "english_us_arpa", "sha256": None},
        "acoustic": {
            "name": "english_us_arpa",
            "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        },
        "g2p": {"name": "english_us_arpa", "sha256": None},
    }


def test_a_dictionary_needs_a_g2p_model_that_fits(tmp_path: Path) -> None:
    stand_in = StandIn(tmp_path)
    german = {"mfa_command": stand_in.command, "dictionary": "german_mfa", "acoustic_model": "german_mfa"}
    with pytest.raises(AlignmentError, match=r"the dictionary asked for is german_mfa; give the --g2p-model"):
        make_aligner(AlignerOptions("mfa", **german))
    make_aligner(AlignerOptions("mfa", **german, g2p_model="none")).close()
    with pytest.raises(AlignmentError, match=r"--dictionary german_mfa is for --align mfa, but .* 'pocketsphinx'"):
        AlignerOptions("pocketsphinx", dictionary="german_mfa")


def test_the_conda_environment_brings_a_release_that_is_run() -> None:
    environment = yaml.safe_load((Path(__file__).parent.parent / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    (asked,) = [d for d in environment["dependencies"] if str(d).startswith("montreal-forced-aligner")]
    assert read_version(asked.split(">=")[1]) == mfa_program.OLDEST
    (pip,) = [d for d in environment["dependencies"] if isinstance(d, dict)]
    assert pip == {"pip": ["."]}
