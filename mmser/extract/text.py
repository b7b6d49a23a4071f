"""Frozen text encoders: transcripts in, token states out, each token with its place in the transcript and its word."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from torch import nn

from mmser import products
from mmser.errors import EncoderError
from mmser.extract import builtin
from mmser.extract.loading import COMPUTE, load, load_model, parse_source, relative_error, weights_digest
from mmser.extract.speech import TOLERANCE
from mmser.transcript import transcript_words, word_of_span

# Of unlike length, so that the shorter is padded; few letters, for tokenizers that make each a token
_PROBES = ("A longer one, to pad against.", "Short.")


@dataclass(frozen=True)
class Tokens:
    """A transcript as an encoder sees it."""

    token_id: NDArray[np.int32]
    """(num_tokens,), the special tokens included."""
    start: NDArray[np.int32]
    """(num_tokens,), first character in the transcript; -1 for a special token."""
    end: NDArray[np.int32]
    """(num_tokens,), one past the last character; -1 for a special token."""
    word: NDArray[np.int32]
    """(num_tokens,), index of the word of the transcript it belongs to; -1 for none (special tokens, lone dashes)."""


class TextEncoder:
    """A frozen BERT-like encoder with its tokenizer.

    Args:
        name: hub id, folder name or ``builtin:...``.
        model: the transformers model.
        tokenizer: its fast tokenizer (only those know which characters a token stands for).
        revision: the commit of the hub repository, where there is one.
        device: where it runs.

    Raises:
        EncoderError: the tokenizer knows no character spans, or the model has a decoder too.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Any, *, revision: str | None = None, device: torch.device | str = "cpu"
    ) -> None:
        if not tokenizer.is_fast:
            raise EncoderError(
                f"text model {name!r}: its tokenizer knows no character spans, so tokens cannot be matched with words; "
                "give a model with a fast tokenizer (tokenizer.json)"
            )
        if model.config.is_encoder_decoder or not hasattr(model.config, "hidden_size"):
            raise EncoderError(
                f"text model {name!r} ({model.config.model_type}) is no encoder of tokens alone; expected one such as "
                "BERT or RoBERTa"
            )
        self.name, self.revision, self.tokenizer = name, revision, tokenizer
        self.device = torch.device(device)
        self._digest = weights_digest(model)
        self.compute = "float32"
        self._tokenizer_digest = _tokenizer_digest(tokenizer)
        products.for_inference(model)
        self.model = model.to(self.device).eval()
        self.dim = int(model.config.hidden_size)
        self.num_layers = int(model.config.num_hidden_layers) + 1
        self.max_tokens = _max_tokens(model, tokenizer)
        self.batchable = self._check_batching()

    def compute_in(self, compute: str) -> None:
        """Change the arithmetic, once, from float32 to ``bf16`` or ``fp16``."""
        assert self.compute == "float32"
        self.compute = compute
        self.model.to(COMPUTE[compute])

    def identity(self) -> dict[str, object]:
        """What decides the states, for the recipe of a stream."""
        return {
            "encoder": self.name,
            "revision": self.revision,
            "weights_sha256": self._digest,
            "architecture": type(self.model).__name__,
            "compute": self.compute,
            "max_tokens": self.max_tokens,
            "tokenizer_sha256": self._tokenizer_digest,
        }

    def tokenize(self, text: str) -> Tokens:
        """Tokens of one transcript.

        Raises:
            EncoderError: empty text, or more tokens than the model takes (nothing is ever cut off in silence).
        """
        if not text.strip():
            raise EncoderError("the text is empty; give its transcript, or leave the text stream out for it")
        encoded = self.tokenizer(
            text, return_offsets_mapping=True, return_special_tokens_mask=True, truncation=False, verbose=False
        )
        if len(encoded["input_ids"]) > self.max_tokens:
            raise EncoderError(
                f"the text has {len(encoded['input_ids'])} tokens, {self.name} takes {self.max_tokens}; "
                "split the utterance (start_s, end_s, text) in the manifest"
            )
        words = transcript_words(text)
        special = np.array(encoded["special_tokens_mask"], bool)
        spans = np.array(encoded["offset_mapping"], np.int32).reshape(-1, 2)
        for span in spans:  # a SentencePiece token covers the blank before its word
            while span[0] < span[1] and text[span[0]].isspace():
                span[0] += 1
        spans[special] = -1
        word = [-1 if s else word_of_span(words, int(a), int(b)) for s, (a, b) in zip(special, spans, strict=True)]
        ids = np.array(encoded["input_ids"], np.int32)
        return Tokens(ids, spans[:, 0], spans[:, 1], np.array(word, np.int32))

    @torch.inference_mode()
    def states(self, batch: Sequence[Tokens], layers: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """Token states of a batch.

        Args:
            batch: tokenized transcripts.
            layers: which layers; 0 is the input of the first block (the embeddings), i the output of block i.

        Returns:
            States (num_layers, batch, tokens, dim) on the encoder's device, in the type it computes in, and the tokens
            of each transcript; what lies behind a transcript's tokens has no meaning.
        """
        lengths = [len(tokens.token_id) for tokens in batch]
        if not self.batchable and len(batch) > 1:
            parts = [self.states([tokens], layers)[0] for tokens in batch]
            return torch.cat([F.pad(p, (0, 0, 0, max(lengths) - p.shape[2])) for p in parts], dim=1), lengths
        ids = torch.full((len(batch), max(lengths)), self.tokenizer.pad_token_id or 0)
        for i, tokens in enumerate(batch):
            ids[i, : lengths[i]] = torch.from_numpy(tokens.token_id)
        mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
        hidden = self.model(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            output_hidden_states=True,
            return_dict=True,
        ).hidden_states
        return torch.stack([hidden[layer] for layer in layers]), lengths

    def _check_batching(self) -> bool:
        """Whether a padded transcript keeps its states."""
        self.batchable = True
        long, short = (self.tokenize(text) for text in _PROBES)
        layers = range(self.num_layers)
        together, lengths = self.states([long, short], layers)
        alone, _ = self.states([short], layers)
        return relative_error(together[:, 1:, : lengths[1]], alone) <= TOLERANCE


def _tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of all that decides how a text becomes tokens, in hex; padding and truncation are set by each call."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules.pop("padding", None)
    rules.pop("truncation", None)
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def _max_tokens(model: Any, tokenizer: Any) -> int:
    """The most tokens that have a position: those of RoBERTa and its kin start one past their padding index."""
    limit = int(tokenizer.model_max_length)
    positions = getattr(model.config, "max_position_embeddings", None)
    if not positions:
        return limit
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            positions -= module.padding_idx + 1
    return min(int(positions), limit)


def load_text_encoder(given: str, device: torch.device | str = "cpu") -> TextEncoder:
    """Load a text encoder by hub id (``ID`` or ``ID@REVISION``), local folder, or ``builtin:...``.

    Raises:
        EncoderError: not found, incomplete, or without a fast tokenizer.
    """
    if given.startswith(builtin.PREFIX):
        model, tokenizer = builtin.text_model(given)
        return TextEncoder(given, model, tokenizer, device=device)
    source = parse_source(given)
    tokenizer = load(source, "the tokenizer of text model", transformers.AutoTokenizer.from_pretrained, use_fast=True)
    model = load_model(source, "text model")
    revision = getattr(model.config, "_commit_hash", None) or source.revision
    return TextEncoder(source.name, model, tokenizer, revision=revision, device=device)
