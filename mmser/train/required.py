"""States that an utterance must have whether or not a head reads them, so that unlike heads see the same utterances."""

from collections.abc import Sequence

from mmser.cache import Cache
from mmser.train.features import open_sources
from mmser.train.options import TOKEN, Experiment


def without_required(cache: Cache, experiment: Experiment, utterance_ids: Sequence[str]) -> dict[str, str]:
    """Utterances that lack states which the experiment requires, with the reason.

    Raises:
        CacheError: the cache, or a stream that is named, is not there.
        ProtocolError: no stream holds such states, or several do and none is named.
    """
    if experiment.require is None:
        return {}
    sources = open_sources(
        cache,
        [name for name in experiment.required if name != TOKEN],
        text=TOKEN in experiment.required,
        speech_stream=experiment.speech_stream,
        text_stream=experiment.text_stream,
    )
    return sources.without(utterance_ids)
