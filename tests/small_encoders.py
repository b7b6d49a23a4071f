"""Small random encoders of real architectures, saved as folders such as those of the Hugging Face hub."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    Data2VecAudioConfig,
    Data2VecAudioModel,
    DebertaV2Config,
    DebertaV2Model,
    DebertaV2Tokenizer,
    HubertConfig,
    HubertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

SPEECH_SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embedding_groups": 4,
}
"""With the seven convolutions of wav2vec 2.0, whose kernels and strides are the defaults."""
_GROUP: dict[str, Any] = {"feat_extract_norm": "group", "num_conv_pos_embeddings": 32}
_LAYER: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "num_conv_pos_embeddings": 32}
_XLS_R: dict[str, Any] = {"conv_bias": True, "attention_dropout": 0.1, "hidden_dropout": 0.1, "layerdrop": 0.1,
                          "feat_proj_dropout": 0.1, "mask_time_prob": 0.075}  # fmt: skip
"""As facebook/wav2vec2-xls-r-300m has them; in evaluation none may have a say."""
SPEECH = {
    "wav2vec2-group": (Wav2Vec2Model, Wav2Vec2Config, _GROUP, False),
    "wav2vec2-layer": (Wav2Vec2Model, Wav2Vec2Config, _LAYER, True),
    "hubert-group": (HubertModel, HubertConfig, _GROUP, True),
    "wavlm-group": (WavLMModel, WavLMConfig, _GROUP, False),
    # Five stacked positional convolutions, each as wide as the whole of a short utterance
    "data2vec-audio": (Data2VecAudioModel, Data2VecAudioConfig, {"conv_pos_kernel_size": 19}, True),
    # wav2vec 2.0 with layer norms, biases in its convolutions, and a dropout of its own in every place
    "xls-r": (Wav2Vec2Model, Wav2Vec2Config, {**_LAYER, **_XLS_R}, True),
}
"""Model, configuration, what differs from the default, and whether the processor normalises."""


def shake(model: Any, seed: int) -> Any:
    """Move every weight, norms and biases too: at their first values 1 and 0 they would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            spread = weight.std() if weight.dim() > 1 else torch.tensor(0.2)
            weight.add_(0.5 * spread * torch.randn(weight.shape, generator=generator))
    return model.eval()


def save_speech(folder: Path, kind: str, **changes: Any) -> Path:
    """A speech encoder of the gallery with its feature extractor."""
    model, config, own, normalise = SPEECH[kind]
    torch.manual_seed(0)
    shake(model(config(**{**SPEECH_SIZE, **own, **changes})), 1).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=normalise, return_attention_mask=True).save_pretrained(folder)
    return folder


def voice(num_samples: int, seed: int) -> NDArray[np.float32]:
    """Noise under a swell, not of mean 0 nor of variance 1."""
    rng = np.random.default_rng((seed, num_samples))
    swell = 0.3 + np.sin(np.linspace(0, 5, num_samples)) ** 2
    return (0.2 * swell * rng.standard_normal(num_samples) + 0.03).astype(np.float32)


_WORDS = ("the", "a", "word", "i", "can", "not", "t", "don", "well", "yes", "no", "known", "naïve", "laughter")


def bert_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """WordPiece as BERT has it: some whole words, all else letter by letter."""
    letters = "abcdefghijklmnopqrstuvwxyzéï0123456789.,!?'-[]—"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS, *letters, *("##" + c for c in letters)]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    marks = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **marks)


def roberta_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """Byte-level BPE as RoBERTa has it, with a few merges, so that a letter may be several tokens."""
    marks = ["<s>", "<pad>", "</s>", "<unk>"]
    merges = [("Ġ", "w"), ("o", "r"), ("Ġw", "or"), ("Ġwor", "d"), ("Ġ", "a"), ("n", "o")]
    pieces = [*marks, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    special = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **special)


def deberta_tokenizer(max_length: int = 64) -> DebertaV2Tokenizer:
    """Unigrams as DeBERTa-v3 has them: a blank before a word is part of its first piece."""
    marks = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    letters = "abcdefghijklmnopqrstuvwxyzIéï0123456789.,!?'-[]LAUGHTER—▁"
    pieces = ["▁the", "▁a", "▁word", "▁I", "▁can", "▁well", "▁yes", "▁no", "known", "▁["]
    vocabulary = [(mark, 0.0) for mark in marks] + [(piece, -2.0) for piece in pieces]
    vocabulary += [(letter, -6.0) for letter in dict.fromkeys(letters)] + [("[MASK]", 0.0)]
    return DebertaV2Tokenizer(vocab=vocabulary, unk_id=3, model_max_length=max_length)


TEXT = {
    "bert": (BertModel, BertConfig, bert_tokenizer, 64),
    # Two more positions than tokens: RoBERTa counts from one past its padding index
    "roberta": (RobertaModel, RobertaConfig, roberta_tokenizer, 66),
    "deberta-v3": (DebertaV2Model, DebertaV2Config, deberta_tokenizer, 64),
}
_OWN: dict[str, dict[str, Any]] = {
    # As microsoft/deberta-v3-base: positions are relative, in buckets, and enter in every block
    "deberta-v3": {
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "max_relative_positions": -1,
        "position_biased_input": False,
        "type_vocab_size": 0,
    }
}


def save_text(folder: Path, kind: str, *, max_length: int = 64, **changes: Any) -> Path:
    """A text encoder of the gallery with its tokenizer."""
    model, config, make_tokenizer, positions = TEXT[kind]
    tokenizer = make_tokenizer(max_length)
    size: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": positions,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    shake(model(config(**{**size, **_OWN.get(kind, {}), **changes})), 2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
