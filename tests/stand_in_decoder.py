"""A decoder process that crashes on some recordings, as a broken decoder in C would. Stands in for mmser's own."""

import os
import time
from pathlib import Path

from mmser.extract import decoder_process
from mmser.extract.decoder_process import serve as really_serve

read_audio, duration_s = decoder_process.read_audio, decoder_process.duration_s


def crash(path: str) -> None:
    """Die of what the recording is called; ``once`` only where its file of that name has not been died of before."""
    died_before = Path(path).with_suffix(".died")
    if path.endswith("abort.wav"):
        os.abort()
    if path.endswith("exit.wav"):
        os._exit(7)
    if path.endswith("once.wav") and not died_before.exists():
        died_before.touch()
        os.abort()
    if path.endswith("slow.wav"):
        Path(path).with_suffix(".begun").touch()
        time.sleep(60)


def serve() -> None:
    """As mmser's, but for the recordings that crash; ``header`` crashes where its header is looked at, too."""

    def read(path, *span):  # type: ignore[no-untyped-def]
        crash(path)
        print("a library has something to say")
        return read_audio(path, *span)

    def look(path, *span):  # type: ignore[no-untyped-def]
        if path.endswith("header.wav"):
            os.abort()
        return duration_s(path, *span)

    decoder_process.read_audio, decoder_process.duration_s = read, look
    really_serve()
