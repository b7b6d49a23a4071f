"""Heads: one torch module a file, behind one contract.

A head is built by ``Head(inputs, num_outputs, options)``, keeps those three as attributes, and maps a
:class:`~mmser.heads.batch.Batch` to outputs (B, num_outputs). So that many runs can train as one
(:mod:`mmser.train.engine` stacks them with ``torch.func.vmap``) a head

- takes no decision that depends on data, and changes no buffer in ``forward``;
- draws nothing at random but through :mod:`mmser.heads.dropout`;
- gives the same output however much padding there is, and a finite one for an empty sequence;
- is ``classify(dropout(features(batch)))``, so that a fusion can take its ``features`` and train another last layer.

A head whose ``flat`` is True takes sequences with or without padding between utterances (:mod:`mmser.heads.flat`), and
says the same of both; it is spared the padding where that costs.

A head whose ``stacks`` is False (CNN14, for its batch norms) may read and move buffers in ``forward``: its runs train
one by one (:mod:`mmser.train.apart`), and it is in evaluation mode whenever it is asked.

Every head is a :class:`~mmser.heads.base.Head`, which saves and loads it. A new head is one file, and one entry in
:data:`HEADS`; the tests then cover it.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from mmser.errors import ProtocolError
from mmser.heads.aligned_words import AlignedWords, AlignedWordsOptions
from mmser.heads.attention_pool import AttentionPool, AttentionPoolOptions
from mmser.heads.base import Head
from mmser.heads.batch import Inputs
from mmser.heads.bayesian_coattention import BayesianCoAttention, BayesianCoAttentionOptions
from mmser.heads.cls_coattention import ClsCoAttention, ClsCoAttentionOptions
from mmser.heads.cnn14 import Cnn14, Cnn14Options, ConditionedCnn14, ConditionedCnn14Options
from mmser.heads.coattention import CoAttention, CoAttentionOptions
from mmser.heads.conditioned_states import ConditionedStates, ConditionedStatesOptions
from mmser.heads.crossmodal_transformer import CrossmodalTransformer, CrossmodalTransformerOptions
from mmser.heads.film import Film, FilmOptions
from mmser.heads.mmer_cross import MmerCross, MmerCrossOptions
from mmser.heads.moe import MixtureOfExperts, MixtureOfExpertsOptions
from mmser.heads.speech_probe import SpeechProbe, SpeechProbeOptions
from mmser.heads.text_network import TextNetwork, TextNetworkOptions
from mmser.heads.text_probe import TextProbe, TextProbeOptions


@dataclass(frozen=True)
class HeadKind:
    """A head that can be asked for by name."""

    module: type[nn.Module]
    """``module(inputs, num_outputs, options)``."""
    options: type[Any]
    """Frozen dataclass of its options; it holds every default."""
    needs_speech: bool
    """Reads ``batch.speech``."""
    needs_text: bool
    """Reads ``batch.text``, unless it has an option ``text`` that is ``none``."""
    needs_mel: bool = False
    """Reads ``batch.mel``, whatever its options are."""
    needs_words: bool = False
    """Reads ``Sequence.word``, whatever its options are."""

    def links(self, options: Any) -> frozenset[str]:
        """What states know besides their values in the batch that it reads: some of :data:`mmser.heads.batch.LINKS`.

        >>> sorted(HEADS["coattention"].links(CoAttentionOptions(positions="time")))
        ['time']
        """
        asked = {"word"} if self.needs_words else set()
        if getattr(options, "prior", "") == "lexicon":
            asked.add("lexicon")
        return frozenset(asked | ({getattr(options, "positions", "none")} - {"none"}))

    def reads_text(self, options: Any) -> bool:
        """Whether it reads ``batch.text`` with these options.

        >>> HEADS["moe"].reads_text(MixtureOfExpertsOptions(text="none"))
        False
        """
        return self.needs_text and getattr(options, "text", "") != "none"

    def reads_mel(self, options: Any) -> bool:
        """Whether it reads ``batch.mel`` with these options.

        >>> HEADS["moe"].reads_mel(MixtureOfExpertsOptions(spectral="mel"))
        True
        """
        return self.needs_mel or getattr(options, "spectral", "none") == "mel"

    @property
    def pools_first(self) -> bool:
        """Whether mean or deviation of each sequence is all that it reads of speech and text."""
        return bool(getattr(self.module, "pools_first", False))

    @property
    def shows_attention(self) -> bool:
        """Whether it can say where speech and text looked (:meth:`mmser.heads.base.Head.forward_with_attention`)."""
        return issubclass(self.module, Head) and self.module.attentions is not Head.attentions

    def reads_means(self, options: Any) -> bool:
        """Whether each sequence's mean is all that it reads of speech and text with these options.

        >>> HEADS["speech-probe"].reads_means(SpeechProbeOptions(pooling="mean+std"))
        False
        """
        return self.pools_first and getattr(options, "pooling", "mean") == "mean"

    def build(self, inputs: Inputs, num_outputs: int, options: Any) -> nn.Module:
        """The head, after a check that the inputs hold what it reads.

        Raises:
            ProtocolError: no speech or no text for a head that needs it, or no outputs.
        """
        name = self.module.__name__
        if self.needs_speech and not (inputs.granularities and inputs.speech_dim):
            raise ProtocolError(f"{name} reads speech, but the inputs name no granularity or have speech_dim 0")
        if self.reads_text(options) and not inputs.text_dim:
            raise ProtocolError(f"{name} reads text, but the inputs have text_dim 0")
        if self.reads_mel(options) and not inputs.mel_dim:
            raise ProtocolError(f"{name} reads log-mel spectrograms, but the inputs have mel_dim 0")
        if num_outputs < 1:
            raise ProtocolError(f"{name} is asked for {num_outputs} outputs; expected at least 1")
        return self.module(inputs, num_outputs, options)


__all__ = ["HEADS", "CoAttention", "Head", "HeadKind", "SpeechProbe", "TextProbe"]

HEADS: dict[str, HeadKind] = {
    "speech-probe": HeadKind(SpeechProbe, SpeechProbeOptions, needs_speech=True, needs_text=False),
    "text-probe": HeadKind(TextProbe, TextProbeOptions, needs_speech=False, needs_text=True),
    "coattention": HeadKind(CoAttention, CoAttentionOptions, needs_speech=True, needs_text=True),
    "cls-coattention": HeadKind(ClsCoAttention, ClsCoAttentionOptions, needs_speech=True, needs_text=True),
    "bayesian-coattention": HeadKind(
        BayesianCoAttention, BayesianCoAttentionOptions, needs_speech=True, needs_text=True
    ),
    "crossmodal-transformer": HeadKind(
        CrossmodalTransformer, CrossmodalTransformerOptions, needs_speech=True, needs_text=True
    ),
    "mmer-cross": HeadKind(MmerCross, MmerCrossOptions, needs_speech=True, needs_text=True),
    "attention-pool": HeadKind(AttentionPool, AttentionPoolOptions, needs_speech=True, needs_text=True),
    "aligned-words": HeadKind(AlignedWords, AlignedWordsOptions, needs_speech=True, needs_text=True, needs_words=True),
    "film": HeadKind(Film, FilmOptions, needs_speech=True, needs_text=True),
    "moe": HeadKind(MixtureOfExperts, MixtureOfExpertsOptions, needs_speech=True, needs_text=True),
    "cnn14": HeadKind(Cnn14, Cnn14Options, needs_speech=False, needs_text=False, needs_mel=True),
    "conditioned-cnn14": HeadKind(
        ConditionedCnn14, ConditionedCnn14Options, needs_speech=False, needs_text=True, needs_mel=True
    ),
    "conditioned-states": HeadKind(ConditionedStates, ConditionedStatesOptions, needs_speech=True, needs_text=True),
    "text-network": HeadKind(TextNetwork, TextNetworkOptions, needs_speech=False, needs_text=True),
}
