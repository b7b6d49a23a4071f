"""The decoder's side of :mod:`mmser.extract.decode`: a process that reads recordings and nothing else.

Requests and answers are lines of JSON on standard input and output; the samples of a recording follow its line as
float32, little-endian. The process ends at once when its input does, so it never outlives the one that started it.
"""

import json
import os
import queue
import sys
import threading
import traceback
from typing import Any, BinaryIO

import numpy as np

from mmser.audio import duration_s, read_audio
from mmser.errors import AudioError

READY = b"ready\n"
"""Said once, when all is imported: what dies before that did not die of a recording."""


def serve() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get among the answers
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    try:
        answers.write(READY)
        answers.flush()
        while True:
            _answer(json.loads(requests.get()), answers)
            answers.flush()
    except BrokenPipeError:  # nobody waits for the answer any more
        os._exit(0)


def _listen(requests: "queue.SimpleQueue[bytes]") -> None:
    """Take requests until there are no more, and then end the process, even amid a recording."""
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)


def _answer(request: dict[str, Any], answers: BinaryIO) -> None:
    span = request["path"], request["start_s"], request["end_s"]
    samples = np.empty(0, "<f4")
    try:
        if request["header_alone"]:
            answer: dict[str, Any] = {"duration_s": duration_s(*span)}
        else:
            recording = read_audio(*span)
            samples = np.ascontiguousarray(recording.samples, "<f4")
            answer = {"digest": recording.digest, "num_samples": len(samples)}
    except AudioError as error:
        answer = {"refused": str(error)}
    except Exception:  # a defect of ours: raised where it was asked for
        answer = {"defect": traceback.format_exc()}
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.write(samples.data)
