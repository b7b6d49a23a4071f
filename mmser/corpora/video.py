"""The sound of corpora that are videos, taken out by ffmpeg where it is installed."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmser.errors import AudioError
from mmser.files import replacing
from mmser.records import check_utterance_id
from mmser.units import SAMPLE_RATE

Report = Callable[[str, int, int], None]
"""Called with what is done, how many of it, and of how many."""

TIME_LIMIT_S = 600
"""For one clip; corpora cut them to seconds, and ffmpeg reads minutes in one."""


def take_sound(
    videos: Mapping[str, Path], folder: Path, title: str, report: Report
) -> tuple[dict[str, Path], dict[str, str]]:
    """Write the sound of each video to ``folder/<utterance_id>.wav``: mono, 16 kHz, 16 bit.

    What is there already is kept, so the work goes on where it was stopped.

    Args:
        videos: the clips by utterance id.
        folder: where to write; it is made.
        title: the corpus, for errors.
        report: told of the progress.

    Returns:
        The recordings by utterance id, and why the others could not be made.

    Raises:
        AudioError: something is to be done and ffmpeg is not installed.
        ManifestError: an utterance id is not fit as a file name.
    """
    for utterance_id in videos:
        check_utterance_id(utterance_id)
    targets = {utterance_id: folder / f"{utterance_id}.wav" for utterance_id in videos}
    missing = [utterance_id for utterance_id, path in targets.items() if not path.is_file()]
    reasons: dict[str, str] = {}
    if missing:
        ffmpeg = _ffmpeg(title)
        folder.mkdir(parents=True, exist_ok=True)
        pool = ThreadPoolExecutor(os.cpu_count() or 1)
        try:
            results = pool.map(lambda uid: _convert(ffmpeg, videos[uid], targets[uid]), missing)
            for number, (uid, reason) in enumerate(zip(missing, results, strict=True), 1):
                if reason:
                    reasons[uid] = reason
                report("sound of videos", number, len(missing))
        finally:
            pool.shutdown(cancel_futures=True)
    return {uid: path for uid, path in targets.items() if uid not in reasons}, reasons


def _ffmpeg(title: str) -> str:
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise AudioError(
            f"{title}: its clips are videos, and ffmpeg, which takes their sound out, is not installed: install it "
            "(apt install ffmpeg, brew install ffmpeg, conda install ffmpeg), or put <utterance_id>.wav files there"
        )
    return ffmpeg


def _convert(ffmpeg: str, video: Path, target: Path) -> str:
    """Make one recording, whole or not at all; returns why not, or ""."""
    # "file:" keeps a name from being taken for an option or a protocol; bitexact leaves out ffmpeg's version
    command = [ffmpeg, "-nostdin", "-v", "error", "-y", "-protocol_whitelist", "file", "-i", f"file:{video.absolute()}"]
    command += ["-vn", "-ac", "1", "-ar", str(SAMPLE_RATE), "-c:a", "pcm_s16le", "-map_metadata", "-1"]
    command += ["-fflags", "+bitexact", "-flags:a", "+bitexact", "-f", "wav"]
    try:
        with replacing(target) as temporary:
            command.append(f"file:{temporary.absolute()}")
            subprocess.run(command, capture_output=True, timeout=TIME_LIMIT_S, check=True)  # noqa: S603
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip().splitlines()
        return f"ffmpeg cannot read it: {said[-1] if said else f'exit code {error.returncode}'}"
    except subprocess.TimeoutExpired:
        return f"ffmpeg was not done with it after {TIME_LIMIT_S} s"
    return ""
