"""How sure a result is: intervals and tests that know that utterances of one speaker belong together."""

from mmser.statistics.clusters import Metric
from mmser.statistics.intervals import Interval, bootstrap_interval, concordance_interval
from mmser.statistics.permutation import holm, paired_concordance_test, paired_permutation_test

__all__ = [
    "Interval",
    "Metric",
    "bootstrap_interval",
    "concordance_interval",
    "holm",
    "paired_concordance_test",
    "paired_permutation_test",
]
