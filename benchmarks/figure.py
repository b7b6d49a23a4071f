"""Draw the figure of docs/images/segments.png: an utterance's waveform with its words, syllables and phones.

    python -m benchmarks.figure docs/images/segments.png

The sentence is spoken by espeak-ng and aligned by the embedded aligner, so the figure comes out of this repository
alone. It needs matplotlib, from the extra ``dev``.
"""

import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from mmser.audio import read_audio
from mmser.demo.speak import Line, speak
from mmser.extract.align import Spoken
from mmser.extract.align.pocketsphinx import PocketSphinxAligner
from mmser.records import TIERS, Alignment, Kind
from mmser.units import SAMPLE_RATE

SENTENCE = "My heart is broken, and nothing can comfort me."


def draw(samples: np.ndarray, alignment: Alignment, path: Path) -> None:
    """Write the figure: the waveform above, a row for each tier below it."""
    figure, (wave, rows) = plt.subplots(
        2, 1, figsize=(12, 4), sharex=True, gridspec_kw={"height_ratios": [2, 3], "hspace": 0}
    )
    seconds = np.arange(len(samples)) / SAMPLE_RATE
    wave.plot(seconds, samples, color="0.25", linewidth=0.4)
    wave.set_yticks([])
    wave.set_xlim(0, seconds[-1])
    for place, tier in enumerate(TIERS):
        top = len(TIERS) - place
        for segment in alignment.tier(tier):
            pause = segment.kind is Kind.SILENCE
            width = segment.end_s - segment.start_s
            rows.add_patch(
                plt.Rectangle(
                    (segment.start_s, top - 1), width, 1, facecolor="0.9" if pause else "white", edgecolor="0.4"
                )
            )
            # a syllable's phones stand under each other, so that they fit
            label = segment.label.replace(" ", "\n")
            rows.text(segment.start_s + width / 2, top - 0.5, label, ha="center", va="center", fontsize=7)
        for border in (word.start_s for word in alignment.words):
            wave.axvline(border, color="tab:blue", linewidth=0.5)
    rows.set_ylim(0, len(TIERS))
    rows.set_yticks([len(TIERS) - place - 0.5 for place in range(len(TIERS))], [f"{tier}s" for tier in TIERS])
    rows.tick_params(axis="y", length=0)
    rows.set_xlabel("seconds")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Software": None})


def main() -> None:
    """Speak, align, draw."""
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "spoken.wav"
        speak({recording: Line(SENTENCE, "en-us")})
        samples = read_audio(recording).samples
    (alignment,) = PocketSphinxAligner(jobs=1).align([Spoken("figure", samples, SENTENCE)])
    assert isinstance(alignment, Alignment), alignment.reason
    draw(samples, alignment, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
