"""PocketSphinx on speech that espeak-ng makes on the spot, and on everything that is no speech."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from mmser.errors import AlignmentError
from mmser.extract.align import AlignerOptions, Failed, Spoken, make_aligner
from mmser.extract.align.pocketsphinx import PocketSphinxAligner
from mmser.extract.align.sphinx import _Span, cut_points
from mmser.extract.align.sphinx_utterance import SphinxSettings, UtteranceAligner, _clipped
from mmser.records import Alignment, Kind, Segment
from mmser.units import SAMPLE_RATE


class Event(ctypes.Structure):
    """espeak_EVENT of espeak-ng's speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int), ("id", ctypes.c_uint), ("text_position", ctypes.c_int), ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int), ("sample", ctypes.c_int), ("user_data", ctypes.c_void_p),
        ("number", ctypes.c_int64),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def espeak() -> ctypes.CDLL:
    loader = pytest.importorskip("espeakng_loader")
    library = ctypes.CDLL(loader.get_library_path())
    assert library.espeak_Initialize(2, 0, str(loader.get_data_path()).encode(), 0) == 22_050
    library.espeak_SetVoiceByName(b"en-us")
    return library


def say(espeak: ctypes.CDLL, text: str) -> tuple[NDArray[np.float32], list[float]]:
    """Speech at 16 kHz, and when espeak-ng itself says that each word begins, in seconds."""
    chunks: list[NDArray[np.int16]] = []
    starts: list[float] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))
    def take(samples, count, events) -> int:  # type: ignore[no-untyped-def]
        if samples and count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        i = 0
        while events[i].type != 0:
            if events[i].type == 1:
                starts.append(events[i].audio_position / 1000)
            i += 1
        return 0

    espeak.espeak_SetSynthCallback(take)
    written = text.encode()
    espeak.espeak_Synth(written, len(written) + 1, 0, 1, 0, 1, None, None)
    espeak.espeak_Synchronize()
    speech = soxr.resample(np.concatenate(chunks).astype(np.float32) / 32768, 22_050, SAMPLE_RATE)
    return speech.astype(np.float32), starts


SENTENCE = "the angry man never believed a word that his happy sister wrote about him"


@pytest.fixture(scope="module")
def speech(espeak: ctypes.CDLL) -> tuple[NDArray[np.float32], list[float]]:
    return say(espeak, SENTENCE)


@pytest.fixture(scope="module")
def aligner() -> PocketSphinxAligner:
    return PocketSphinxAligner(jobs=1)


def align(aligner: PocketSphinxAligner, samples: NDArray[np.float32], text: str) -> Alignment | Failed:
    (result,) = aligner.align([Spoken("u1", samples, text)])
    return result


def aligned(aligner: PocketSphinxAligner, samples: NDArray[np.float32], text: str) -> Alignment:
    result = align(aligner, samples, text)
    assert isinstance(result, Alignment), result
    return result


def spoken_part(alignment: Alignment) -> list[tuple[str, int]]:
    return [(word.label, word.parent) for word in alignment.words if word.kind is Kind.SPEECH]


def test_words_begin_where_the_synthesiser_says(
    aligner: PocketSphinxAligner, speech: tuple[NDArray[np.float32], list[float]]
) -> None:
    samples, starts = speech
    found = aligned(aligner, samples, SENTENCE)
    words = [word for word in found.words if word.kind is Kind.SPEECH]
    assert [word.label for word in words] == SENTENCE.split()
    errors = np.abs([word.start_s - start for word, start in zip(words, starts, strict=True)])
    assert np.median(errors) <= 0.04
    assert found.flags == ()
    assert len(found.syllables) == 20
    for tier in (found.syllables, found.phones):
        for segment in tier:
            word = found.words[segment.parent]
            assert word.start_s <= segment.start_s < segment.end_s <= word.end_s
            assert segment.kind is word.kind
    assert {p.label for p in found.phones if p.kind is Kind.SILENCE} <= {""}
    assert found.words[-1].end_s <= len(samples) / SAMPLE_RATE


def test_a_result_depends_neither_on_what_came_before_nor_on_the_processes(espeak: ctypes.CDLL) -> None:
    texts = ["happy birthday to you", "I am sad, [LAUGHTER] so sad", "zorble the frobnik", "", "what a day"]
    given = [
        Spoken(f"u{i}", say(espeak, text.replace("[LAUGHTER]", "") or "x")[0], text) for i, text in enumerate(texts)
    ]
    given.insert(2, Spoken("silent", np.zeros(8000, np.float32), "hello"))
    with PocketSphinxAligner(jobs=1) as one, make_aligner(AlignerOptions("pocketsphinx", jobs=2)) as two:
        forward = [repr(r) for r in one.align(given)]
        assert [repr(r) for r in one.align(given[::-1])][::-1] == forward
        assert [repr(r) for r in two.align(given)] == forward
        assert one.recipe == two.recipe
        json.dumps(one.recipe)
    assert ["Failed" in r for r in forward] == [False, False, True, False, True, False]
    assert "spelled-by-rule:zorble" in forward[3]
    assert "spelled-by-rule:frobnik" in forward[3]


def test_numbers_tags_and_hyphens_keep_their_place_in_the_transcript(
    aligner: PocketSphinxAligner, espeak: ctypes.CDLL
) -> None:
    samples, _ = say(espeak, "well known at twenty one")
    found = aligned(aligner, samples, "[BREATHING] Well-known, at 21! 你好")
    assert spoken_part(found) == [("well", 1), ("known", 1), ("at", 2), ("twenty", 3), ("one", 3)]
    assert found.flags == ("skipped:你好",)


def test_the_users_lexicon_comes_first_and_is_in_the_recipe(tmp_path: Path, espeak: ctypes.CDLL) -> None:
    samples, _ = say(espeak, "happy frobnik")
    (tmp_path / "own.dict").write_text("frobnik F R AA1 B N IH0 K\nhappy HH AE1 P\nhappy(2) HH AE1 P IY0\n")
    with PocketSphinxAligner(jobs=1, lexicon=tmp_path / "own.dict") as own:
        found = aligned(own, samples, "happy frobnik")
        assert own.recipe["lexicon"] != PocketSphinxAligner(jobs=1).recipe["lexicon"]
    assert spoken_part(found) == [("happy", 0), ("frobnik", 1)]
    assert " ".join(p.label for p in found.phones if p.kind is Kind.SPEECH) == "HH AE P IY F R AA B N IH K"
    assert found.flags == ()


def test_long_audio_is_cut_at_pauses_and_agrees_with_the_whole(speech: tuple[NDArray[np.float32], list[float]]) -> None:
    samples = np.concatenate([speech[0], np.zeros(8000, np.float32)] * 4)
    text = " ".join([SENTENCE] * 4)
    whole = aligned(PocketSphinxAligner(jobs=1), samples, text)
    pieces = aligned(PocketSphinxAligner(jobs=1, settings=SphinxSettings(window_s=7.0)), samples, text)
    assert spoken_part(pieces) == spoken_part(whole)
    one, other = (np.array([(w.start_s, w.end_s) for w in a.words if w.kind is Kind.SPEECH]) for a in (whole, pieces))
    assert repr(whole) != repr(pieces)
    assert np.percentile(np.abs(one - other), 90) <= 0.03


def test_cuts_prefer_pauses_and_then_words() -> None:
    spans = [_Span("a", 0, 80), _Span("<sil>", 80, 110), _Span("b", 110, 190), _Span("<sil>", 190, 194)]
    spans += [_Span("c", 194, 290), _Span("d", 290, 380), _Span("e", 380, 600), _Span("f", 600, 640)]
    assert cut_points(spans, window=200, pause=20) == [95, 192, 380, 600]
    assert cut_points(spans[:2], window=200, pause=20) == []


def test_speech_in_a_wide_beam_is_flagged(speech: tuple[NDArray[np.float32], list[float]]) -> None:
    narrow = PocketSphinxAligner(jobs=1, settings=SphinxSettings(beam=1e-5))
    assert "wide-beam" in aligned(narrow, speech[0], SENTENCE).flags


def test_another_transcript_fails_or_is_flagged(
    aligner: PocketSphinxAligner, speech: tuple[NDArray[np.float32], list[float]]
) -> None:
    result = align(aligner, speech[0], "seven yellow boxes fell quickly over the noisy church roof")
    assert isinstance(result, Failed) or "low-score" in result.flags


noise = (np.random.default_rng(1).standard_normal(16_000) * 0.05).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "text", "message"),
    [
        (noise[:0], "hello", "there is no audio"),
        (noise[:1], "hello", "0.00 s of audio cannot hold the 4 phones of its 1 words"),
        (noise[:1600], "hello there", "0.10 s of audio cannot hold the 7 phones of its 2 words, which take 0.21 s"),
        (np.zeros(16_000, np.float32), "hello", "the audio is silent"),
        (np.full(16_000, np.nan, np.float32), "hello", "not finite"),
        (noise, "", "it has no transcript"),
        (noise, " ... [LAUGHTER]", "holds no spoken word"),
        (noise, "привет, как дела", "has a Latin letter, and PocketSphinx's embedded model is English"),
        (noise, "真っ昼間", "align other languages with MFA"),
        (np.broadcast_to(noise[:1], 16_000 * 601), "hello", "601.0 s long and at most 600 s"),
    ],
)  # fmt: skip
def test_what_cannot_be_aligned_says_why(
    aligner: PocketSphinxAligner, samples: NDArray[np.float32], text: str, message: str
) -> None:
    result = align(aligner, samples, text)
    assert isinstance(result, Failed)
    assert result.utterance_id == "u1"
    assert result.reason.startswith("utterance 'u1': ")
    assert message in result.reason


@pytest.mark.parametrize("level", [1e-4, 0.05, 3.0])
def test_noise_never_crashes(aligner: PocketSphinxAligner, level: float) -> None:
    result = align(aligner, noise / 0.05 * np.float32(level), "hello there")
    assert isinstance(result, Failed) or "low-score" in result.flags or "wide-beam" in result.flags


def test_a_decoder_that_raised_is_dropped(
    monkeypatch: pytest.MonkeyPatch, speech: tuple[NDArray[np.float32], list[float]]
) -> None:
    one = UtteranceAligner(SphinxSettings(), PocketSphinxAligner(jobs=1)._lexicon)
    before = one.align(Spoken("u1", speech[0], SENTENCE))
    broken = one._decoders[SphinxSettings().beam]

    def stop(*arguments: object, **options: object) -> None:
        raise RuntimeError("Failed to process")

    monkeypatch.setattr(broken, "align", stop)
    result = one.align(Spoken("u1", speech[0], SENTENCE))
    assert isinstance(result, Failed)
    assert "PocketSphinx stopped: RuntimeError: Failed to process" in result.reason
    assert repr(one.align(Spoken("u1", speech[0], SENTENCE))) == repr(before)


def test_options_that_make_no_sense() -> None:
    with pytest.raises(AlignmentError, match=r"no aligner is called 'kaldi'; there are .*pocketsphinx, textgrid"):
        AlignerOptions("kaldi")
    with pytest.raises(AlignmentError, match=r"--textgrids grids is for --align textgrid, but .* is 'pocketsphinx'"):
        AlignerOptions("pocketsphinx", textgrids=Path("grids"))
    with pytest.raises(AlignmentError, match=r"in 0 processes"):
        make_aligner(AlignerOptions("pocketsphinx", jobs=0))


def test_backends_are_imported_only_when_their_aligner_is_made() -> None:
    code = (
        "import sys, mmser.extract.align; sys.exit(bool({'pocketsphinx', 'praatio', 'num2words'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_lies_in_the_padding_is_taken_off_and_named() -> None:
    words = [Segment(0.1, 0.25, "uh", 0), Segment(0.25, 0.5, "yes", 1), Segment(0.5, 1.4, "no", 2)]
    phones = [Segment(0.1, 0.25, "AH", 0), Segment(0.25, 0.5, "Y", 1), Segment(0.5, 1.35, "N", 2)]
    phones.append(Segment(1.35, 1.4, "OW", 2))
    spoken = Spoken("u1", np.zeros(SAMPLE_RATE, np.float32), "uh yes no")
    found = _clipped(spoken, words, [], phones, [], SphinxSettings(padding_s=0.3))
    assert [(w.label, w.start_s, w.end_s, w.parent) for w in found.words] == [("yes", 0.0, 0.2, 1), ("no", 0.2, 1.0, 2)]
    assert [(p.label, p.start_s, p.end_s, p.parent) for p in found.phones] == [("Y", 0.0, 0.2, 0), ("N", 0.2, 1.0, 1)]
    assert found.flags == ("outside-audio:uh",)
