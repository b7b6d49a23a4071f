"""A program that behaves as ``mfa`` does where mmser meets it: versions, commands, exit codes, missing outputs.

Written from MFA 3.4's source and documentation (commands, options, folder layout, tier names, silences, ``spn``,
``alignment_analysis.csv``, a file that fails leaves exit code 0 and no output). It does not align: words get equal
shares of the recording, between two pauses.

What it does besides is asked for by a JSON file beside it: ``version``, ``fail`` (words whose files it cannot align),
``wide`` (those that only wide beams align), ``unknown`` (words it cannot spell), ``mode`` (how it breaks).
"""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

SCRIPT = r'''
import csv, json, sys, time, wave
from pathlib import Path

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "mfa.json").read_text())
ARGUMENTS = sys.argv[1:]
with (HERE / "calls.jsonl").open("a") as log:
    log.write(json.dumps(ARGUMENTS) + "\n")
version = tuple(int(part) for part in CONFIG["version"].split("."))
mode = CONFIG.get("mode", "")


def stop(message, code=1):
    print("\x1b[31m╭─ Error ───────╮\x1b[0m\n│ " + message + " │\n╰───────────────╯", file=sys.stderr)
    sys.exit(code)


if mode == "no kalpy":
    stop("ModuleNotFoundError: No module named '_kalpy'")
if ARGUMENTS == ["version"]:
    if mode == "hangs at version":
        time.sleep(60)
    print("some warning of a library" if mode == "no version" else CONFIG["version"])
    sys.exit(0)

legacy = ["align"] if version < (3, 4, 3) else ["align", "align_legacy"] if version < (4, 0, 0) else ["align_legacy"]
if version >= (5, 0, 0):
    legacy = []
new = [] if version < (3, 4, 0) else ["align_hf"] if version < (4, 0, 0) else ["align"]
command, rest = ARGUMENTS[0], ARGUMENTS[1:]
if command not in legacy + new:
    stop(f"No such command '{command}'.", 2)
flags = ["--clean", "--final_clean", "--overwrite", "-q", "--single_speaker", "--use_g2p"]
options = {"--output_format": None, "-t": None, "-j": None, "--g2p_model_path": None, "--beam": "10",
           "--retry_beam": "40"}
places = []
while rest:
    first = rest.pop(0)
    if first in options:
        options[first] = rest.pop(0)
    elif first in flags:
        pass
    elif first.startswith("-"):
        stop(f"No such option: {first}", 2)
    else:
        places.append(first)
wanted = 4 if command in legacy else 3
if len(places) != wanted:
    stop(f"{command} takes {wanted} arguments, not {len(places)}", 2)
corpus, output = Path(places[0]), Path(places[-1])
if wanted == 4:
    for kind, name in zip(("dictionary", "acoustic"), places[1:3]):
        if name not in CONFIG["models"]:
            stop(f'Invalid value: Could not find a model named "{name}" for {kind}.', 2)
if str(corpus).startswith(options["-t"]) or str(output).startswith(options["-t"]):
    stop("Corpus directories must be outside of MFA's temporary directory to prevent data loss", 2)
assert options["--output_format"] == "long_textgrid" and int(options["-j"]) >= 1
if mode == "hangs":
    Path(HERE / "started").touch()
    time.sleep(60)
if mode == "crashes":
    stop("MemoryError")


def grid(path, duration, words):
    """Long TextGrid: a pause, the words in equal shares, a pause."""
    step = (duration - 0.2) / len(words)
    word_tier, phone_tier = [(0, 0.1, "")], [(0, 0.1, "sil")]
    for i, word in enumerate(words):
        a, b = 0.1 + i * step, 0.1 + (i + 1) * step
        word_tier.append((a, b, word))
        spelled = ["spn"] if word in CONFIG.get("unknown", []) else ["HH", "AY1"]
        phone_tier += [(a + k * (b - a) / len(spelled), a + (k + 1) * (b - a) / len(spelled), p)
                       for k, p in enumerate(spelled)]
    for tier, label in ((word_tier, ""), (phone_tier, "sil")):
        tier.append((tier[-1][1], duration, label))
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {duration}",
             "tiers? <exists>", "size = 2", "item []:"]
    for number, (name, tier) in enumerate((("words", word_tier), ("phones", phone_tier)), 1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"',
                  "        xmin = 0", f"        xmax = {duration}", f"        intervals: size = {len(tier)}"]
        for i, (a, b, label) in enumerate(tier, 1):
            lines += [f"        intervals [{i}]:", f"            xmin = {a:.6f}", f"            xmax = {b:.6f}",
                      f'            text = "{label}"']
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


analysis, seen = [], []
for sound in sorted(corpus.rglob("*.wav")):
    with wave.open(str(sound)) as file:
        assert file.getframerate() == 16000 and file.getsampwidth() == 2 and file.getnchannels() == 1
        duration = round(file.getnframes() / 16000, 6)
    words = "".join(c for c in sound.with_suffix(".lab").read_text(encoding="utf-8").lower() if c not in ".,!?").split()
    speaker = sound.parent.relative_to(corpus)
    seen.append({"file": sound.stem, "speaker": str(speaker), "words": words})
    hard = set(words) & set(CONFIG.get("wide", [])) and float(options["--beam"]) < 100
    if mode == "no output" or set(words) & set(CONFIG.get("fail", [])) or hard:
        continue
    grid(output / speaker / f"{sound.stem}.TextGrid", duration, words)
    analysis.append({"file": sound.stem, "speaker": str(speaker), "overall_log_likelihood": -50.5,
                     "speech_log_likelihood": -45.25, "phone_duration_deviation": 1.5})
with (HERE / "seen.jsonl").open("a") as log:
    log.write(json.dumps(seen) + "\n")
if not analysis and mode == "complains":
    stop("There were no successful alignments for 1 utterances.")
output.mkdir(exist_ok=True)
with (output / "alignment_analysis.csv").open("w", newline="") as file:
    rows = csv.DictWriter(file, ["file", "speaker", "overall_log_likelihood", "speech_log_likelihood",
                                 "phone_duration_deviation"])
    rows.writeheader()
    rows.writerows(analysis)
'''


class StandIn:
    """The program in a folder of its own, whose name has a blank."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder / "a folder"
        self.folder.mkdir()
        script = self.folder / "mfa.py"
        script.write_text(SCRIPT, encoding="utf-8")
        program = self.folder / "mfa"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.config = {"version": "3.4.3", "models": ["english_us_arpa"], **config}
        (self.folder / "mfa.json").write_text(json.dumps(self.config))
        self.command = f"'{program}'" if os.name == "posix" else f"{sys.executable} {script}"

    def set(self, **config: Any) -> None:
        """Change its ways."""
        self.config.update(config)
        (self.folder / "mfa.json").write_text(json.dumps(self.config))

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of each call but ``version``."""
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call != ["version"]]

    @property
    def seen(self) -> list[list[dict[str, Any]]]:
        """The corpus of each call: files, their speakers' folders, their words."""
        return list(map(json.loads, (self.folder / "seen.jsonl").read_text().splitlines()))
