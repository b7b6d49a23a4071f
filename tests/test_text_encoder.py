"""Text encoders: token states free of the batch, and every token with its characters and its word."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_encoders import TEXT, bert_tokenizer, roberta_tokenizer, save_text
from torch import nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, CanineTokenizer, T5Config, T5Model

from mmser.errors import EncoderError
from mmser.extract.speech import TOLERANCE
from mmser.extract.text import TextEncoder, load_text_encoder
from mmser.transcript import transcript_words

TEXTS = ("I can't - well-known [LAUGHTER] naïve!", "No.", "a", "the word and the word, and a word", "yes, well", "a")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("text")
    return {kind: save_text(root / kind, kind) for kind in TEXT}


def assert_plain(folder: Path, encoder: TextEncoder, texts: tuple[str, ...], share: float = TOLERANCE) -> None:
    """Every layer of every text of a batch is what the plain model says of that text alone."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    states, lengths = encoder.states([encoder.tokenize(text) for text in texts], range(encoder.num_layers))
    assert states.shape == (encoder.num_layers, len(texts), max(lengths), encoder.dim)
    for i, text in enumerate(texts):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        expected = torch.cat(hidden)
        assert expected.shape == (4, lengths[i], 32)
        for layer in range(4):
            worst = (states[layer, i, : lengths[i]].cpu() - expected[layer]).abs().max()
            assert worst <= share * expected[layer].abs().max(), (layer, text)


@pytest.mark.parametrize("kind", TEXT)
def test_states_do_not_depend_on_the_batch(gallery: dict[str, Path], kind: str, library: str) -> None:
    encoder = load_text_encoder(str(gallery[kind]))
    assert encoder.batchable
    for texts in (TEXTS, TEXTS[::-1], TEXTS[1:3], ("a word", "no word"), ("a",)):
        assert_plain(gallery[kind], encoder, texts)


@pytest.mark.parametrize("kind", TEXT)
def test_a_model_that_heeds_padding_is_run_one_by_one(gallery: dict[str, Path], kind: str) -> None:
    class Heedless(TextEncoder):
        """Its model is not told what is padding."""

        def __init__(self, name: str, model: nn.Module, tokenizer: object) -> None:
            model.register_forward_pre_hook(
                lambda module, args, kwargs: (args, {**kwargs, "attention_mask": torch.ones_like(kwargs["input_ids"])}),
                with_kwargs=True,
            )
            super().__init__(name, model, tokenizer)

    folder = gallery[kind]
    encoder = Heedless("heedless", AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    assert not encoder.batchable
    assert_plain(folder, encoder, TEXTS)
    encoder.batchable = True
    with pytest.raises(AssertionError):
        assert_plain(folder, encoder, TEXTS, share=0.01)


@pytest.mark.parametrize("kind", TEXT)
def test_layer_0_enters_the_first_block_and_layer_i_leaves_block_i(gallery: dict[str, Path], kind: str) -> None:
    encoder = load_text_encoder(str(gallery[kind]))
    blocks = encoder.model.encoder.layer
    seen: list[torch.Tensor] = []
    blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    for block in blocks:
        block.register_forward_hook(
            lambda module, args, out: seen.append((out[0] if isinstance(out, tuple) else out).clone())
        )
    states, _ = encoder.states([encoder.tokenize(TEXTS[0])], range(encoder.num_layers))
    torch.testing.assert_close(states, torch.stack(seen), rtol=0, atol=1e-6)
    picked, _ = encoder.states([encoder.tokenize(TEXTS[0])], [2, 0])
    assert torch.equal(picked, states[[2, 0]])


def test_tokens_of_punctuation_contractions_hyphens_and_tags(gallery: dict[str, Path]) -> None:
    text = "I can't - well-known [LAUGHTER] naïve!"
    tokens = load_text_encoder(str(gallery["bert"])).tokenize(text)
    pieces = ["i", "can", "'", "t", "-", "well", "-", "known", "[", "laughter", "]", "naïve", "!"]
    assert bert_tokenizer().convert_ids_to_tokens(tokens.token_id.tolist()) == ["[CLS]", *pieces, "[SEP]"]
    assert [text[a:b].lower() for a, b in zip(tokens.start, tokens.end, strict=True)][1:-1] == pieces
    assert tokens.start[[0, -1]].tolist() == tokens.end[[0, -1]].tolist() == [-1, -1]
    # I, can't, well-known, [LAUGHTER], naïve! — the lone dash is no word
    assert tokens.word.tolist() == [-1, 0, 1, 1, 1, -1, 2, 2, 2, 3, 3, 3, 4, 4, -1]
    assert {a.dtype for a in (tokens.token_id, tokens.start, tokens.end, tokens.word)} == {np.dtype(np.int32)}


def test_tokens_of_bytes_keep_the_characters_they_are_part_of(gallery: dict[str, Path]) -> None:
    text = "naïve 😀  word, a no"
    tokens = load_text_encoder(str(gallery["roberta"])).tokenize(text)
    spans = list(zip(tokens.start.tolist(), tokens.end.tolist(), tokens.word.tolist(), strict=True))
    assert spans[0] == spans[-1] == (-1, -1, -1)
    found = [(text[a:b], word) for a, b, word in spans[1:-1] if b > a]
    assert found == [
        *(("n", 0), ("a", 0), ("ï", 0), ("ï", 0), ("v", 0), ("e", 0)),
        *[("😀", -1)] * 4,
        *(("word", 1), (",", 1), ("a", 2), ("no", 3)),
    ]
    assert all(word == -1 for a, b, word in spans if a == b)  # a token of white space alone
    pieces = roberta_tokenizer().convert_ids_to_tokens(tokens.token_id.tolist())
    assert [p for p in pieces if p in ("Ġword", "Ġa", "no")] == ["Ġword", "Ġa", "no"]


def test_tokens_that_begin_with_a_blank_stand_for_the_word_alone(gallery: dict[str, Path]) -> None:
    text = "I can  well-known - [LAUGHTER] naïve"
    encoder = load_text_encoder(str(gallery["deberta-v3"]))
    tokens = encoder.tokenize(text)
    pieces = encoder.tokenizer.convert_ids_to_tokens(tokens.token_id.tolist())
    spans = list(zip(tokens.start.tolist(), tokens.end.tolist(), tokens.word.tolist(), strict=True))
    assert pieces[:5] == ["[CLS]", "▁I", "▁can", "▁well", "-"]
    assert spans[0] == spans[-1] == (-1, -1, -1)
    for piece, (a, b, word) in zip(pieces[1:-1], spans[1:-1], strict=True):
        assert text[a:b] == piece.removeprefix("▁")
        # I, can, well-known, [LAUGHTER], naïve; the lone dash, and a blank alone, are part of no word
        places = [(0, 1, 0), (2, 5, 1), (7, 17, 2), (20, 30, 3), (31, 36, 4)]
        assert word == next((w for first, last, w in places if first <= a < b <= last), -1), (piece, a, b)


def test_a_sentencepiece_model_without_tokenizer_json_is_read_as_sentencepiece_reads_it(tmp_path: Path) -> None:
    # As microsoft/deberta-v3-base is on the hub
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    folder = save_text(tmp_path / "deberta", "deberta-v3")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    said = ["the door is open again", "a well known word", "I can not say", "it is late and cold outside"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(said * 20), model_prefix=str(folder / "spm"), vocab_size=60, hard_vocab_limit=False,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]",
        unk_piece="[UNK]", minloglevel=2,
    )  # fmt: skip
    encoder = load_text_encoder(str(folder))
    expected = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    for text in (*said, "the  word", "a cold door"):
        tokens = encoder.tokenize(text)
        pieces = encoder.tokenizer.convert_ids_to_tokens(tokens.token_id.tolist())
        assert pieces == ["[CLS]", *expected.encode(text, out_type=str), "[SEP]"]
        assert set(tokens.word.tolist()) - {-1} == set(range(len(text.split())))


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_an_empty_text_is_refused(gallery: dict[str, Path], text: str) -> None:
    with pytest.raises(EncoderError, match="the text is empty; give its transcript, or leave the text stream out"):
        load_text_encoder(str(gallery["bert"])).tokenize(text)


@pytest.mark.parametrize("kind", TEXT)
def test_a_text_too_long_is_refused_never_cut(gallery: dict[str, Path], kind: str) -> None:
    encoder = load_text_encoder(str(gallery[kind]))
    assert encoder.max_tokens == 64
    longest = "word" + " word" * (59 if kind == "roberta" else 61)  # RoBERTa's first is 3 tokens: w, or, d
    tokens = encoder.tokenize(longest)
    assert len(tokens.token_id) == 64
    assert encoder.states([tokens], [3])[0].isfinite().all()
    assert_plain(gallery[kind], encoder, (longest, "a"))
    with pytest.raises(EncoderError, match=rf"the text has 65 tokens, {kind} takes 64; split the utterance"):
        encoder.tokenize(longest + " a")


@pytest.mark.parametrize(("kind", "positions", "expected"), [("bert", 512, 512), ("roberta", 514, 512)])
@pytest.mark.parametrize("max_length", [int(1e30), 100])
def test_positions_limit_the_tokens(tmp_path: Path, kind: str, positions: int, expected: int, max_length: int) -> None:
    folder = save_text(tmp_path / kind, kind, max_length=max_length, max_position_embeddings=positions)
    encoder = load_text_encoder(str(folder))
    assert encoder.max_tokens == min(expected, max_length)
    assert encoder.identity()["max_tokens"] == encoder.max_tokens


def test_a_tokenizer_without_character_spans_is_refused(tmp_path: Path) -> None:
    save_text(tmp_path / "slow", "bert")
    for file in (tmp_path / "slow").glob("tokenizer*"):
        file.unlink()
    CanineTokenizer().save_pretrained(tmp_path / "slow")
    with pytest.raises(
        EncoderError, match=r"text model 'slow': its tokenizer knows no character spans.*fast tokenizer"
    ):
        load_text_encoder(str(tmp_path / "slow"))


def test_a_model_with_a_decoder_is_refused(tmp_path: Path) -> None:
    config = T5Config(vocab_size=80, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(tmp_path / "t5")
    bert_tokenizer().save_pretrained(tmp_path / "t5")
    with pytest.raises(EncoderError, match=r"text model 't5' \(t5\) is no encoder of tokens alone; .*BERT or RoBERTa"):
        load_text_encoder(str(tmp_path / "t5"))


def test_a_model_saved_without_its_pooler_is_complete(tmp_path: Path) -> None:
    # As bert-base-uncased is: its checkpoint is of another head
    tokenizer = bert_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    first, second = (load_text_encoder(str(tmp_path / "bare")) for _ in range(2))
    assert hasattr(first.model, "pooler")
    assert first.identity() == second.identity()  # the pooler's random weights have no say
    assert_plain(tmp_path / "bare", first, TEXTS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", TEXT)
def test_states_on_cuda_are_those_of_the_plain_model(gallery: dict[str, Path], kind: str) -> None:
    encoder = load_text_encoder(str(gallery[kind]), "cuda")
    assert encoder._digest == load_text_encoder(str(gallery[kind]))._digest
    assert_plain(gallery[kind], encoder, TEXTS, share=1e-3)


PIECES = ["[LAUGHTER]", "can't", "well-known", "don’t", "1,000", "naïve", "U.S.A."]
SIGNS = "abdehlnortwy AN0123456789.,!?'’-–—[]() \n\té中😀ïßÅ\u0301\u200b"
WRITTEN = st.lists(st.sampled_from([*SIGNS, *PIECES]), min_size=1, max_size=40).map("".join).filter(str.strip)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_no_letter_is_lost_between_tokens_and_words(gallery: dict[str, Path], kind: str) -> None:
    """Whatever is written: each letter lies in one word, and the tokens that hold it belong to that word."""
    encoder = load_text_encoder(str(gallery[kind]))
    encoder.max_tokens = 1_000

    @given(WRITTEN)
    def check(text: str) -> None:
        words = transcript_words(text)
        tokens = encoder.tokenize(text)
        holders: list[set[int]] = [set() for _ in text]
        for start, end, word in zip(tokens.start, tokens.end, tokens.word, strict=True):
            assert (start < 0) == (end < 0)
            if word >= 0:
                # a token that reaches over a border belongs to the word that holds most of it
                shares = [min(end, w.end) - max(start, w.start) for w in words]
                assert shares[word] == max(shares) > 0
            elif end > start:
                assert not any(w.start < end and start < w.end for w in words)
            for place in range(max(0, start), max(0, end)):
                holders[place].add(int(word))
        owners = [[i for i, w in enumerate(words) if w.start <= place < w.end] for place in range(len(text))]
        for place, letter in enumerate(text):
            assert len(owners[place]) <= 1
            if letter.isalnum():
                assert len(owners[place]) == 1, f"{letter!r} is in no word"
                # a sign that the tokenizer drops or joins with its neighbour has no token of its own
                assert not holders[place] or holders[place] <= set(owners[place]), (text, place)

    check()
