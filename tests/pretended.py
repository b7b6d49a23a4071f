"""A device that is not there: tensors that say they are on an accelerator, and whose numbers lie in main memory.

What goes wrong on a GPU alone is mostly a tensor that was left on the other side. Here that is found without a GPU: an
operation on tensors of both sides is refused, as CUDA refuses it, and everything else is computed by the processor.

    python tests/pretended.py

trains every head there and here, and says what they come to. To be run in a process of its own: the device is
registered for good.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from test_engine import CASES, TEXT_MIXES, a_build, a_run, some_labels, table_for
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mmser.train import engine, memory
from mmser.train.packed import Packed
from mmser.train.serial import train_serially
from mmser.train.table import Table

NAME = "pretended"
ATEN = torch.ops.aten
BETWEEN_DEVICES = {ATEN._to_copy.default, ATEN.copy_.default}
INDEXING = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default, ATEN._index_put_impl_.default}
"""CUDA takes their indices from the CPU too."""


class There(Tensor):
    """A tensor on the device that is not there."""

    here: Tensor
    """Its numbers."""

    @staticmethod
    def __new__(cls, here: Tensor) -> "There":
        """Wrap a tensor of the CPU."""
        shape = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        made = Tensor._make_wrapper_subclass(cls, here.size(), **shape, device=torch.device(NAME, 0))
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})

    def tolist(self) -> Any:
        """torch would look for the numbers in memory that this does not have."""
        return self.here.tolist()


class Pretending(TorchDispatchMode):
    """Tensors can be made there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


def computed(function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operation gives, on the side where it would be.

    Raises:
        RuntimeError: it was given tensors of both sides; single numbers may come from anywhere.
    """
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [leaf for leaf in tensors if isinstance(leaf, There)]
    if function in INDEXING:
        mixed = bool(there) and not isinstance(args[0], There)
    else:
        mixed = bool(there) and any(leaf.dim() for leaf in tensors if not isinstance(leaf, There))
    if mixed and function not in BETWEEN_DEVICES:
        raise RuntimeError(f"{function}: tensors on different devices")
    asked = kwargs.get("device")
    stays = bool(there) if asked is None else torch.device(asked).type == NAME
    if function is ATEN.copy_.default:
        stays = isinstance(args[0], There)
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    known = {id(own.here): own for own in there}  # an operation in place gives the tensor that it was given
    found = function(*tree_map(_here, args), **tree_map(_here, kwargs))

    def placed(leaf: Any) -> Any:
        if not stays or not isinstance(leaf, Tensor):
            return leaf
        return known[id(leaf)] if id(leaf) in known else There(leaf)

    return tree_map(placed, found)


def _here(leaf: Any) -> Any:
    return leaf.here if isinstance(leaf, There) else leaf


def _copied(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _here(target).copy_(_here(source))
    return target


def register() -> torch.library.Library:
    """Tell torch of the device; what it gives back has to be kept. Indexing by a list makes tensors below the mode."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL")
    made = {"empty.memory_format": torch.empty, "empty_strided": torch.empty_strided}
    for name, make in made.items():
        library.impl(name, lambda *shape, make=make, dtype=None, **_: There(make(*shape, dtype=dtype)), "PrivateUse1")
    library.impl("_copy_from", _copied, "PrivateUse1")
    return library


def on_the_device(table: Table) -> Table:
    """The same features there."""

    def moved(stream: Packed) -> Packed:
        own = {name: getattr(stream, name) for name in Packed.__dataclass_fields__}
        return Packed(**{name: None if value is None else value.to(NAME) for name, value in own.items()})

    speech = {name: moved(stream) for name, stream in table.speech.items()}
    return replace(table, speech=speech, text=moved(table.text), mel=moved(table.mel))


def main() -> None:
    """Train an epoch of every head as many runs, and of a probe run by run and serially, here and there."""
    library = register()
    torch.set_num_threads(1)  # autograd has threads for the device from the first backward pass on: no fork after it
    labels = some_labels()
    cases = {(kind, layers, case in TEXT_MIXES): case for case, (kind, _, layers) in CASES.items()}.values()
    for case in cases:
        compare(case, labels, engine.Training(epochs=1, batch_size=16))
    compare("probe", labels, engine.Training(epochs=1, batch_size=16, optimiser="sgd"))
    del library


def compare(case: str, labels: engine.Targets, training: engine.Training) -> None:
    """Train two runs of one head on both sides."""
    table, build, runs = (
        table_for(case),
        a_build(case),
        [a_run(case, num_train=18), a_run(case, seed=9, first=2, num_train=12)],
    )
    here = engine.train(table, labels, build, runs, training)
    # Storage that is not there has no addresses to count memory by; what is tried to count it is computed.
    with Pretending(), patch.object(memory._Held, "_storages", lambda *_: []):
        there = on_the_device(table)
        found = engine.train(there, labels, build, runs, training)
        said = engine.outputs(there, build, found, [run.dev_rows for run in runs])
        if case == "probe":
            here, found = [*here, here[0]], [*found, train_serially(there, labels, build, runs[0], training)]
    for one, other in zip(here, found, strict=True):
        np.testing.assert_allclose(np.array(one.history)[:, 1], np.array(other.history)[:, 1], rtol=1e-4)
        for name, value in one.state.items():
            np.testing.assert_allclose(value, other.state[name], atol=1e-4, err_msg=name)
    assert not any(isinstance(own, There) for own in said), "outputs come back to the CPU"
    print(case, training.optimiser, "is the same there", flush=True)


if __name__ == "__main__":
    main()
