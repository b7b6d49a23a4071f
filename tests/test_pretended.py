"""What a GPU is given, where there is none (tests/pretended.py)."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

from mmser.heads import HEADS


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch knows no devices written in Python",
)
def test_training_leaves_no_tensor_on_the_other_device() -> None:
    done = subprocess.run([sys.executable, Path(__file__).with_name("pretended.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("is the same there") >= len([kind for kind in HEADS if "cnn14" not in kind])
