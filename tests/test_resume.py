"""Interrupted again and again, a training comes to the folder that it comes to in one go."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from test_apart import write_cache_with_mel

from mmser.train.options import Experiment, Training
from mmser.train.run import train_head

PROBE = Experiment(
    head="speech-probe",
    folds="session",
    settings={"hidden": 4},
    learning_rate=0.02,
    # Each run is a group of its own, so that products have one size, and equal runs equal bytes.
    training=Training(epochs=3, batch_size=16, crop_s=0.4, memory_gb=1e-6),
)
COATTENTION = replace(PROBE, head="coattention", settings={"width": 4, "heads": 2})
FUSION = replace(PROBE, head="late-fusion", members=("speech-probe@utterance", "text-probe"))
CASES = {
    "cnn14": replace(PROBE, head="cnn14", settings={"width_multiplier": 1 / 32}),
    "sgd": replace(PROBE, training=replace(PROBE.training, optimiser="sgd")),
    "moe": replace(PROBE, head="moe", settings={"width": 4, "spectral": "mel"}),
    "two rates": replace(COATTENTION, learning_rate=(0.02, 0.005)),
    "svm": replace(FUSION, fusion="svm"),
    "concat": replace(FUSION, fusion="concat"),
    "oracle": replace(COATTENTION, report_oracle=True),
}


class Stop:
    """Interrupts after some reports, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache_with_mel(tmp_path_factory.mktemp("resume") / "toy")


def contents(folder: Path) -> dict[str, object]:
    """Every file: tensors as bytes by name (safetensors orders what stands beside them as it likes)."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            found[name] = {key: (value.shape, value.tobytes()) for key, value in load_file(path).items()}
        else:
            found[name] = path.read_bytes()
    return found


@pytest.mark.parametrize("case", CASES)
def test_what_is_interrupted_again_and_again_is_what_it_is_in_one_go(cache: Path, tmp_path: Path, case: str) -> None:
    """Each time one run is finished, and the next one lost in its second epoch."""
    train_head(cache, CASES[case], tmp_path / "whole")
    interruptions, kept = 0, [0]
    while True:
        try:
            train_head(cache, CASES[case], tmp_path / "parts", report=Stop(CASES[case].training.epochs + 1))
        except KeyboardInterrupt:
            interruptions += 1
            kept.append(len(list((tmp_path / "parts").glob("heads/*/config.json"))))
            assert not (tmp_path / "parts" / "predictions.csv").exists()
        else:
            break
    assert interruptions >= 2
    assert kept == sorted(set(kept)), "an interruption that keeps nothing"
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
