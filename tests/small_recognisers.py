"""Small random speech recognisers of real architectures, saved as folders such as those of the Hugging Face hub."""

import json
from pathlib import Path
from typing import Any

import torch
from small_encoders import SPEECH, SPEECH_SIZE, shake
from tokenizers import AddedToken, pre_tokenizers
from transformers import (
    GenerationConfig,
    HubertForCTC,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WavLMForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
FOR_CTC = {
    "wav2vec2-group": Wav2Vec2ForCTC,
    "wav2vec2-layer": Wav2Vec2ForCTC,
    "hubert-group": HubertForCTC,
    "wavlm-group": WavLMForCTC,
}


def save_ctc(folder: Path, kind: str = "wav2vec2-group", letters: list[str] = LETTERS, **changes: Any) -> Path:
    """An encoder of the gallery with a head of letters and its vocabulary."""
    _, config, own, normalise = SPEECH[kind]
    torch.manual_seed(0)
    made = config(**{**SPEECH_SIZE, **own, "vocab_size": len(letters), "pad_token_id": 0, **changes})
    model = shake(FOR_CTC[kind](made), 3)
    with torch.no_grad():
        model.lm_head.bias[:4] -= 0.5  # by chance it may say nothing but blanks and marks
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=normalise, return_attention_mask=True).save_pretrained(folder)
    (folder / "made.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}), encoding="utf-8")
    Wav2Vec2CTCTokenizer(str(folder / "made.json")).save_pretrained(folder)
    return folder


WINDOW_S = 2
"""What this Whisper reads at once; the real one reads 30 s."""
ENDS_AT = 10
"""The position from which on it says that all is said."""


def save_whisper(folder: Path, *, ends: bool = True, multilingual: bool = True, **changes: Any) -> Path:
    """A Whisper whose decoder ends by its tenth token, or never."""
    marks = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
    marks += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = WhisperTokenizer({sign: i for i, sign in enumerate([*letters, marks[0]])}, [])
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks[1:]])
    times = [f"<|{i * 0.02:.2f}|>" for i in range(WINDOW_S * 50 + 1)]
    tokenizer.add_tokens([AddedToken(time, special=False, normalized=False) for time in times])
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in marks}
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=16,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=WINDOW_S * 50,
        max_target_positions=24,
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
        tie_word_embeddings=False,
        **changes,
    )
    model = shake(WhisperForConditionalGeneration(config), 4)
    with torch.no_grad():
        decoder = model.model.decoder
        decoder.embed_tokens.weight.normal_()
        model.proj_out.weight.normal_()  # not those of the tokens, or a letter would ask for itself again
        said = [i for i, sign in enumerate(letters) if sign in "abcdefghijklmnopqrstuvwxyzĠ"]
        rare = [i for i in range(len(tokenizer)) if i not in (*said, *ids.values())]
        model.proj_out.weight[rare] *= 0.3
        decoder.embed_positions.weight.normal_()
        decoder.layer_norm.reset_parameters()
        for layer in decoder.layers:
            layer.encoder_attn.out_proj.weight.mul_(60.0)  # what is heard has as much of a say as what is written
            layer.self_attn.out_proj.weight.mul_(20.0)
        for layer in (model.model.encoder.conv1, model.model.encoder.conv2):
            layer.weight.mul_(8.0)
        if ends:
            decoder.embed_positions.weight[ENDS_AT:] = 1000 * model.proj_out.weight[ids["<|endoftext|>"]]
    known = {"lang_to_id": {"<|en|>": ids["<|en|>"], "<|de|>": ids["<|de|>"]}}
    known["task_to_id"] = {"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]}
    model.generation_config = GenerationConfig(
        is_multilingual=multilingual,
        no_timestamps_token_id=ids["<|notimestamps|>"],
        max_length=24,
        max_initial_timestamp_index=20,
        suppress_tokens=[i for mark, i in ids.items() if mark != "<|endoftext|>"],
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ids["<|endoftext|>"]),
        decoder_start_token_id=ids["<|startoftranscript|>"],
        **(known if multilingual else {}),
    )
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=16, chunk_length=WINDOW_S).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
