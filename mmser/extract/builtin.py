"""Encoders that need no download: real architectures, fixed weights, **untrained**.

They exist so that every command can be tried, tested and demonstrated offline. The speech encoder is a wav2vec 2.0
whose two convolutions are a mel-spaced filter bank and a smoother, set and not learnt, under blocks of random weights:
a usable acoustic front end, which says how much of a result is owed to pre-training. The text encoder is a BERT of
random weights: little more than a bag of words. Neither stands for the encoders that the literature names.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, Wav2Vec2Config, Wav2Vec2Model

from mmser.errors import EncoderError
from mmser.units import SAMPLE_RATE

PREFIX = "builtin:"


@dataclass(frozen=True)
class Size:
    """How large a built-in encoder is."""

    width: int
    blocks: int
    heads: int
    bands: int
    """Bands of the speech encoder's filter bank."""
    text_width: int
    """Width of the text encoder: fewer than some 200 dimensions do not keep a few hundred random words apart."""


SIZES = {
    "tiny": Size(width=64, blocks=3, heads=4, bands=48, text_width=192),
    "small": Size(width=384, blocks=4, heads=6, bands=80, text_width=384),
}

# Words that are one token; all others are spelled letter by letter. A bag of whole words is what an untrained text
# encoder can tell apart.
COMMON_WORDS = """
a about acceptable according across after afternoon again airport all alone already also always am an and angry
anniversary another answer any apartment are around arrived as ask at average away awful baby back bad bag bank be
beautiful because bed bedroom been before behind believe beside best better bicycle big birthday blaming blue board
book boss both bottle box boy bread bring broke broken brother brought bus but buy by call came can canceled cannot
car care careful carpet chair chairs child children choose city clean close coat coffee cold come comfort coming
cooked corner could cousins crashed cried cup cut dance dancing dare dark daughter day dead dear demand did died
difference dinner do doctor does dog done door down dream drink drove each early eat either elevator eleven else
empty end enough even evening ever every everybody everyone everything exactly exams excellent excuses eyes face
failed fair family fantastic far father feel few fifth final finally find fine first floor flowers folder food for
forgot form found four free fresh friend friends from full funeral funny furious game garden gave general get
getting gift give glad glorious go goes going gone good got grandmother great had half hall hand hands hanging
happened happy hard has hate have he head hear heart heartbroken held help her here high him his history home hooray
hope horrible hot hotel hour hours house how hurt hurts i idea idiot if in insults into is it items job joy jumped
just keep key keys kind kitchen know lake lamp large last late later laugh laughed leaking leave leaves left less
let letter letters library lie lies life light like liked list listed little live loan lonely long look lost lot
loud love lovely low lunch mad made mail main make makes man many married mat may me meet meeting members minutes
miserable miss missed mistakes monday money more morning mother mourned move moved much music must my near need
needed neighbor neither never new news newspaper next nice night nine no nobody none nor normal not nothing now
number numbers of off office often old on once one only open opened opens opinion or ordinary other others our out
outrage over own package page paint paper party passed people perfect phone pictures place plain plan plane planned
platform please position present printed printer private prize problem procedure promise puppy put quiet quietly
rain ran read reading ready really refused regular repair report rest results right river road roof room ruin ruined
rule run sad said same sat saw say saying says schedule school scream seat second see sent seven she ships shop
should show shut sick since sing single sister sit six size sky sleep slow small smile smiling so some somebody
someone something son song soon sorry special spring stand standard start station still stole stop stops store story
street strong stupid such summer sun support sure surprise table take takes talk tea teacher team tell ten test than
thank that the their them then there these they thief thing things think third this those though thrilled through
throw thursday time tired to today together told tomorrow tonight too took touch train tree trip true try turn
twenty two uncle under until up upstairs us usual very village visit wait waited waiting walk wall want warm was
watch water way we weather week weeping well went were wet what when where which while white who whole why will wind
window winter wish with without won wonderful word words work works world worse worst would write wrong wrote years
yellow yes yesterday yet you your
"""
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MARKS = "abcdefghijklmnopqrstuvwxyz0123456789äöüßéèêñçœæøå.,!?;:'\"-()[]&%$/"


def _size(spec: str) -> Size:
    name = spec.removeprefix(PREFIX)
    if name not in SIZES:
        raise EncoderError(f"{spec!r}: no such built-in encoder; there are: {', '.join(PREFIX + n for n in SIZES)}")
    return SIZES[name]


# Four phases a quarter turn apart: GELU rectifies each, and their mean is a band's level whatever the phase.
_PHASES = 4
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 7600.0
_KERNELS, _STRIDES = (240, 2), (160, 2)
"""Together 400 samples wide and 320 apart, the frames of wav2vec 2.0."""


def speech_model(spec: str) -> Wav2Vec2Model:
    """The untrained wav2vec 2.0 of a name such as ``builtin:tiny`` (layer norm, as wav2vec2-large-lv60 has).

    Raises:
        EncoderError: no such name.
    """
    size = _size(spec)
    config = Wav2Vec2Config(
        hidden_size=size.width,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        conv_dim=(_PHASES * size.bands, size.bands),
        conv_kernel=_KERNELS,
        conv_stride=_STRIDES,
        num_feat_extract_layers=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=4,
        apply_spec_augment=False,
    )
    model = _fill(Wav2Vec2Model(config))
    bank, smoother = (layer.conv.weight for layer in model.feature_extractor.conv_layers)
    with torch.no_grad():
        bank.copy_(torch.from_numpy(_filter_bank(size.bands).astype(np.float32)).unsqueeze(1))
        mean_of_phases = torch.eye(size.bands).repeat_interleave(_PHASES, dim=1).unsqueeze(-1)
        smoother.copy_(mean_of_phases.expand(-1, -1, _KERNELS[1]) / (_PHASES * _KERNELS[1]))
    return model


def _filter_bank(bands: int) -> NDArray[np.float64]:
    """Windowed cosines of norm 1, mel-spaced, four phases a band, shape (4 bands, samples).

    A window is as long as two periods of its band's spacing, so high bands are short in time and wide in frequency.
    """
    width = _KERNELS[0]
    lowest, highest = (np.log1p(hz / 700.0) for hz in (_LOWEST_HZ, _HIGHEST_HZ))  # mel, up to its factor
    centres = 700.0 * np.expm1(np.linspace(lowest, highest, bands)) / SAMPLE_RATE
    spacing = np.gradient(centres)
    time = np.arange(width) - (width - 1) / 2
    filters = []
    for centre, step in zip(centres, spacing, strict=True):
        length = min(width, round(2 / step))
        window = np.zeros(width)
        first = (width - length) // 2
        window[first : first + length] = np.hanning(length + 2)[1:-1]
        for phase in range(_PHASES):
            wave = window * np.cos(2 * np.pi * (centre * time + phase / _PHASES))
            filters.append(wave / np.linalg.norm(wave))
    return np.array(filters)


def text_model(spec: str) -> tuple[BertModel, PreTrainedTokenizerFast]:
    """The untrained BERT of a name such as ``builtin:tiny``, with its tokenizer.

    Raises:
        EncoderError: no such name.
    """
    size = _size(spec)
    pieces = [*_SPECIAL, *COMMON_WORDS.split(), *_MARKS, *("##" + mark for mark in _MARKS)]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    ends = [(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=size.text_width,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        intermediate_size=2 * size.text_width,
    )
    return _fill(BertModel(config, add_pooling_layer=False)), fast


# What a block adds to its input, and what a position adds to a word, is kept small: a random block at full strength
# stirs words and positions until a linear head can tell neither.
_BRANCH_GAIN = 0.3
_POSITION_GAIN = 0.1
_BRANCH_ENDS = ("out_proj.weight", "output_dense.weight", "output.dense.weight")
_POSITIONS = ("position_embeddings.weight", "token_type_embeddings.weight")


def _fill(model: Any) -> Any:
    """Weights from a generator of our own, so that no release of torch or transformers changes them.

    Matrices get normal values of deviation 1 / sqrt(fan-in), words deviation 1, norms 1 and biases 0. Each tensor's
    generator is seeded by the tensor's name.
    """
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            tensor.copy_(torch.from_numpy(_values(name, tuple(tensor.shape)).astype(np.float32)))
    return model.eval()


def _values(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if name.endswith("original0"):  # gain of the weight-normalised positional convolution
        return np.ones(shape)
    if len(shape) < 2:
        return np.full(shape, float(name.endswith("weight")))
    values = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    if "embeddings" in name:
        return values * (_POSITION_GAIN if name.endswith(_POSITIONS) else 1.0)
    gain = _BRANCH_GAIN if name.endswith(_BRANCH_ENDS) else 1.0
    return values * gain / np.sqrt(np.prod(shape[1:]))
