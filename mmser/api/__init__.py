"""mmser for notebooks: train a head, and look at what came of it, in a line each.

>>> from mmser.api import Runs, train_head
"""

from mmser.api.runs import Runs, compare
from mmser.api.training import train_head

__all__ = ["Runs", "compare", "train_head"]
