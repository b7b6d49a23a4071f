"""How long heads will train: some epochs of a few of them on a few utterances of the cache, the quickest counts."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from mmser.devices import pick_device
from mmser.heads import HEADS
from mmser.train.assemble import inputs_of, read_states
from mmser.train.engine import train
from mmser.train.plan import Run
from mmser.train.prepare import Prepared
from mmser.train.stack import initial_head, stacks
from mmser.train.targets import Targets

HEADS_AT_ONCE = 8
"""Heads that are tried together, at most: by then much of what a step costs by itself is spread, as in earnest."""
EPOCHS = 2
"""After one to warm up. What disturbs an epoch only ever adds to it, so the least is the nearest to the truth."""
UTTERANCES = 36
"""Tried; two thirds of them train. Of heads that train one by one, which are large, a sixth as many."""
LEAST = 6
"""Tried at least, some of them more than once if need be: the CCC of a dev part is of two or more."""


class Estimates:
    """Seconds that runs will take, by what was measured once for each shape of head."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        """``clock`` gives seconds; None: :func:`clock_of` the device."""
        self._clock = clock
        self._known: dict[str, float] = {}

    def of(self, prepared: Sequence[Prepared], number: int, runs: Sequence[Run]) -> float:
        """Seconds that ``runs`` of a member take if none stops early.

        Args:
            prepared: experiments of one shape.
            number: the member's.
            runs: what is to train, all of them its.
        """
        one = prepared[0]
        training = one.experiment.training
        member, options = one.members[number], one.options[number]
        told = (training.optimiser, training.batch_size, training.metric_weight > 0)
        case = repr((member.head, member.granularities, options, len(one.layers), len(one.text_layers), *told))
        if case not in self._known:
            self._known[case] = self._measured(one, number, min(HEADS_AT_ONCE, len(runs)))
        return self._known[case] * training.epochs * sum(len(run.train_rows) + len(run.dev_rows) for run in runs)

    def _measured(self, one: Prepared, number: int, heads: int) -> float:
        """Seconds an epoch, head and utterance."""
        # Those that lack nothing: statistics need states, and what is not there takes no time.
        lacking = one.sources.without(one.chosen.ids) if one.kept else {}
        whole = [row for row, uid in enumerate(one.chosen.ids) if uid not in lacking] or range(len(one.chosen.ids))
        places = np.unique(np.linspace(0, len(whole) - 1, UTTERANCES).astype(int))
        rows = [whole[place] for place in np.resize(places, max(LEAST, len(places)))]
        experiment, kind = replace(one.experiment, normalise="global"), HEADS[one.members[number].head]
        device = pick_device(experiment.device)
        states, _ = read_states([replace(one, experiment=experiment)], device, rows)
        table, inputs = inputs_of(one, number, states)
        targets = _any_targets(len(rows), len(one.chosen.labels), len(one.chosen.dimensions))
        build = partial(kind.build, inputs, targets.num_outputs, one.options[number])
        training = replace(experiment.training, epochs=1 + EPOCHS, patience=1 + EPOCHS)
        together = stacks(initial_head(build, 0))
        used = np.arange(len(rows) if together else max(LEAST, len(rows) // 6))
        third = len(used) // 3
        layer = 0 if one.experiment.try_layers and kind.needs_speech else None
        runs = [
            Run(f"trial {seed}", used[third:], used[:third], seed, layer) for seed in range(heads if together else 1)
        ]
        clock, cores = self._clock or clock_of(device), torch.get_num_threads()
        marks: list[tuple[float, int]] = []
        try:
            if together and device.type == "cpu":
                torch.set_num_threads(1)  # in earnest too a core has heads of its own (mmser.train.abreast)
            train(table, targets, build, runs, training, progress=lambda done, _: marks.append((clock(), done)))
        finally:
            torch.set_num_threads(cores)
        seconds, epochs = np.diff(marks, axis=0).T
        return float((seconds / epochs).min()) / len(used)


def clock_of(device: torch.device) -> Callable[[], float]:
    """What to time heads by: on a CPU what this process had of its cores, since other work is no cost of theirs.

    Divided by the cores, which all work at the same time.
    """
    if device.type != "cpu":
        return time.perf_counter
    cores = torch.get_num_threads()
    return lambda: time.process_time() / cores


def _any_targets(num: int, num_classes: int, num_ratings: int) -> Targets:
    """Targets of the right shape: what they say costs no time."""
    classes = torch.arange(num) % max(1, num_classes)
    shares = torch.nn.functional.one_hot(classes, num_classes).float() if num_classes else torch.zeros(num, 0)
    ratings = torch.linspace(-1, 1, num)[:, None].repeat(1, num_ratings)
    return Targets(classes if num_classes else torch.full((num,), -1), shares, ratings)
