"""A program of its own that speaks with espeak-ng and writes down when each word and phone began.

Run by :mod:`benchmarks.align` for the reasons given in :mod:`mmser.demo.espeak`. Input: the same JSON object; output: a
WAV a line, and on standard output a JSON list a line of ``[kind, seconds, place]``: ``word`` with its first character,
``phone`` with espeak-ng's name of it, ``end``.
"""

import ctypes
import json
import sys
import wave
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "mmser" / "demo"))
import espeak

_PHONEME_EVENTS = 1  # espeakINITIALIZE_PHONEME_EVENTS
_WORD, _PHONEME, _MESSAGE_END = 1, 7, 6  # espeak_EVENT_TYPE


class _Place(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """``espeak_EVENT``; ``sample`` counts from the start of the message."""

    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _Place),
    ]  # fmt: skip


class Chronicler(espeak.Espeak):
    """Says a line and keeps the events."""

    options = espeak.Espeak.options | _PHONEME_EVENTS

    def __init__(self, library: str, data: str) -> None:
        super().__init__(library, data)
        self.events: list[list[Any]] = []

    def _receive(self, samples: Any, num_samples: int, events: Any) -> int:
        super()._receive(samples, num_samples, None)
        found = ctypes.cast(events, ctypes.POINTER(_Event))
        i = 0
        while found[i].type != 0:
            event = found[i]
            seconds = event.sample / self.rate
            if event.type == _WORD:
                self.events.append(["word", seconds, event.text_position - 1])  # counted from 1
            elif event.type == _PHONEME:
                self.events.append(["phone", seconds, event.id.string.decode()])
            elif event.type == _MESSAGE_END:
                self.events.append(["end", seconds, 0])
            i += 1
        return 0


def main() -> None:
    """Speak the lines of the order on standard input."""
    order = json.load(sys.stdin)
    speaker = Chronicler(order["library"], order["data"])
    for line in order["lines"]:
        speaker.events = []
        samples = speaker.say(line["text"], line["voice"], line["parameters"])
        with wave.open(line["path"], "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(speaker.rate)
            file.writeframes(samples)
        print(json.dumps(speaker.events))


if __name__ == "__main__":
    main()
