"""A program of its own that speaks with espeak-ng: run by :mod:`mmser.demo.speak`, never imported by it.

It needs the standard library alone. It is a process of its own because espeak-ng keeps state that no call resets
(the same sentence twice in one process is not the same sound), is not safe to use from two threads, and is under
the GPL. Input: one JSON object on standard input, see :func:`main`.

The C interface is that of espeak-ng's ``speak_lib.h``, version 1.52.
"""

import ctypes
import json
import os
import sys
import wave
from typing import Any

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, and calls return when all is said
_DO_NOT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: report missing voices instead of ending the process
_UTF8 = 1  # espeakCHARS_UTF8
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "range": 4}  # espeak_PARAMETER

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """The library, once initialised; one in a process."""

    options = _DO_NOT_EXIT  # of espeak_Initialize

    def __init__(self, library: str, data: str) -> None:
        self._library = ctypes.CDLL(library)
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        self._samples = bytearray()
        self._callback = _CALLBACK(self._receive)  # held here: the library keeps a bare pointer to it
        self.rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), self.options)
        if self.rate <= 0:
            raise RuntimeError(f"espeak-ng finds no voices in {data!r}")
        self._library.espeak_SetSynthCallback(self._callback)
        # breathy voices are part noise, which the library otherwise seeds with the time of day
        self._library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        _require(self._library.espeak_ng_SetRandSeed(1), "a seed")

    def say(self, text: str, voice: str, parameters: dict[str, int]) -> bytes:
        """16-bit mono samples at ``self.rate``, in the machine's byte order."""
        self._samples.clear()
        _require(self._library.espeak_SetVoiceByName(voice.encode()), f"voice {voice!r}")
        for name, value in parameters.items():
            _require(self._library.espeak_SetParameter(_PARAMETERS[name], value, 0), f"{name} {value}")
        encoded = text.encode()
        _require(self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _UTF8, None, None), repr(text))
        _require(self._library.espeak_Synchronize(), repr(text))
        return bytes(self._samples)

    def _receive(self, samples: Any, num_samples: int, _events: Any) -> int:
        if samples and num_samples > 0:  # no samples: the end of the text
            self._samples += ctypes.string_at(samples, 2 * num_samples)
        return 0


def _require(status: int, what: str) -> None:
    if status != 0:
        raise RuntimeError(f"espeak-ng refuses {what} (status {status})")


def main() -> None:
    """Read ``{"library", "data", "lines": [{"path", "text", "voice", "parameters"}]}``; write one WAV a line."""
    order = json.load(sys.stdin)
    espeak = Espeak(order["library"], order["data"])
    for line in order["lines"]:
        samples = espeak.say(line["text"], line["voice"], line["parameters"])
        with wave.open(line["path"], "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(espeak.rate)
            file.writeframes(samples)


if __name__ == "__main__":
    main()
