"""Heads find what is planted where they can see it, and stay at chance where nothing that they see tells it."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import CLAIMS, CUE_LAYER, LAYERS, Claim, write_planted
from safetensors.numpy import load_file

from mmser.heads import HEADS
from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.train.options import Training
from mmser.train.run import train_head

EPOCHS = 15
"""At most: on the corpus of seed 0 attention finds the words early. Others take longer (docs/planted_truths.md)."""


class Measured:
    """Every cache is written once and every experiment runs once; those of the claims to be tested two at a time."""

    def __init__(self, folder: Path, claims: Iterable[Claim]) -> None:
        self.folder, self._under_way = folder, dict[Path, Future[Any]]()
        self.cache = lru_cache(lambda problem: write_planted(problem, folder / problem))
        # a run of one head fills a core; spawned, for torch's threads do not survive a fork
        self.pool = ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,))
        for claim in sorted(claims, key=lambda claim: claim.problem != "stress"):  # which take the longest
            self._start(claim)

    def _start(self, claim: Claim) -> Path:
        own = claim.name if claim.problem == "ratings" else claim.key  # one run rates both
        folder = self.folder / "runs" / f"{claim.problem}-{abs(hash(own))}"
        if folder not in self._under_way:
            epochs = min(claim.epochs, EPOCHS)
            experiment = claim.experiment(training=Training(epochs=epochs, patience=epochs))
            self._under_way[folder] = self.pool.submit(train_head, self.cache(claim.problem), experiment, folder)
        return folder

    def run(self, claim: Claim) -> Path:
        folder = self._start(claim)
        self._under_way[folder].result()
        return folder

    def score(self, claim: Claim) -> float:
        """UA, or CCC."""
        results = pd.read_csv(self.run(claim) / "results.csv").iloc[-1]  # of a late fusion, the fusion itself
        return float(results[f"ccc_{claim.label}" if claim.problem == "ratings" else "ua"])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Measured]:
    asked = [own.callspec.params.get("claim") for own in request.session.items if hasattr(own, "callspec")]
    found = Measured(tmp_path_factory.mktemp("planted"), [claim for claim in asked if isinstance(claim, Claim)])
    yield found
    found.pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.key)
def test_claim(measured: Measured, claim: Claim) -> None:
    found = measured.score(claim)
    assert claim.holds(found), f"{found:.3f}"


def test_the_learned_mix_weighs_the_layer_with_the_cue_most(measured: Measured) -> None:
    (claim,) = [claim for claim in CLAIMS if claim.changes.get("layer") == "mix"]
    (weights,) = (measured.run(claim) / "heads").glob("*/model.safetensors")
    (mix,) = [value for name, value in load_file(weights).items() if name.endswith("mix.logits")]
    assert mix.shape == (LAYERS,)
    assert mix.argmax() == CUE_LAYER
    assert mix[CUE_LAYER] - np.delete(mix, CUE_LAYER).max() > 0.5


@pytest.mark.parametrize("kind", ["coattention", "crossmodal-transformer"])
@pytest.mark.parametrize("positions", ["none", "word", "time"])
def test_queries_and_keys_begin_alike_where_streams_share_positions(kind: str, positions: str) -> None:
    options = HEADS[kind].options(width=8, heads=2, positions=positions)
    weights = HEADS[kind].build(Inputs(3, 3, ("word",)), 2, options).state_dict()
    pairs = [
        (value, weights[name.replace("query", "key")]) for name, value in weights.items() if "query.weight" in name
    ]
    assert pairs
    assert all(torch.equal(query, key) == (positions != "none") for query, key in pairs)


@pytest.mark.parametrize("kind", ["coattention", "crossmodal-transformer"])
@pytest.mark.parametrize("positions", ["none", "word", "time"])
def test_without_positions_words_that_change_places_change_nothing(kind: str, positions: str) -> None:
    torch.manual_seed(0)
    head = HEADS[kind].build(Inputs(3, 3, ("word",)), 2, HEADS[kind].options(width=8, heads=2, positions=positions))
    places, mask = torch.arange(5).expand(4, 5), torch.ones(4, 5, dtype=torch.bool)
    speech, text = (Sequence(torch.randn(4, 5, 3), mask, places, places / 3) for _ in range(2))
    moved = text._replace(values=text.values[:, [3, 0, 4, 1, 2]])
    with torch.no_grad():
        before, after = (head.eval()(Batch({"word": speech}, own, None)) for own in (text, moved))
    assert ((before - after).abs().max() < 1e-5) == (positions == "none")
