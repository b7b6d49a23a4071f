"""How many runs a device holds at once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_map

from mmser.train.evaluate import by_length
from mmser.train.plan import Run, Training
from mmser.train.stack import flat
from mmser.train.table import Table

CPU_GB = 4.0
"""What a stack may occupy in main memory unless told otherwise: small enough for a laptop."""


def max_stacked(table: Table, head: nn.Module, runs: Sequence[Run], training: Training) -> int:
    """How many of ``runs`` may train together; at least 1.

    Measured, not guessed: one head goes forward on the longest utterances that could meet in one batch, and what
    autograd keeps for the way back is counted. To it come the batch itself (as stored, as float32, and its index) and
    six times the parameters (weights, best weights, two moments, gradients twice); half as much again is for what
    passes through. States end to end are of another size at every step, which leaves gaps in the heap: measured, they
    took up to 2.5 times what is counted.
    """
    rows = torch.unique(torch.cat([torch.from_numpy(run.train_rows) for run in runs])).numpy()
    longest = torch.from_numpy(rows[by_length(table, rows)[-training.batch_size :]]).unsqueeze(0)
    layer = None if runs[0].layer is None else torch.tensor([runs[0].layer])
    stacked = table.gather(longest, layer, torch.zeros(longest.shape, dtype=torch.int64), flat=flat(head, table))
    batch = tree_map(lambda leaf: leaf[0] if isinstance(leaf, Tensor) else leaf, stacked)
    sequences = [*batch.speech.values(), *(one for one in (batch.text, batch.mel) if one is not None)]
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    head = head.to(table.device)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        head(batch)
    gathered = sum(sequence.values.nbytes for sequence in sequences)
    parameters = sum(parameter.nbytes for parameter in head.parameters())
    room = 2.5 if flat(head, table) else 1.5
    per_run = room * (sum(kept.values()) + 2 * gathered + 6 * parameters)
    return max(1, int(_budget_bytes(table.device, training) / per_run))


def _budget_bytes(device: torch.device, training: Training) -> float:
    if training.memory_gb:
        return training.memory_gb * 1e9
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2
    return CPU_GB * 1e9
