"""Encoders that need no download: real architectures, fixed weights, **untrained**.

They exist so that every command can be tried, tested and demonstrated offline. An untrained convolution stack is still
a usable acoustic front end (and says how much of a result is owed to pre-training), an untrained BERT is little more
than a bag of words; neither stands for the encoders that the literature names.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, Wav2Vec2Config, Wav2Vec2Model

from mmser.errors import EncoderError

PREFIX = "builtin:"


@dataclass(frozen=True)
class Size:
    """How large a built-in encoder is."""

    width: int
    blocks: int
    heads: int
    convolution: int
    """Channels of the speech encoder's convolutions."""


SIZES = {
    "tiny": Size(width=64, blocks=3, heads=4, convolution=64),
    "small": Size(width=192, blocks=4, heads=6, convolution=192),
}

# Words that are one token; all others are spelled letter by letter. A bag of whole words is what an untrained text
# encoder can tell apart.
COMMON_WORDS = """
a about after again all alone already also always am an and angry another any are around as ask at away awful
back bad be beautiful because bed been before behind believe best better big book both bread bring broken
brother bus but buy by call came can car careful chair child city clean close coffee cold come could cup dark
day dead dear did dinner do does dog done door down dream drink each early eat empty end enough even evening
every everyone everything eyes face fair family far father feel few find fine first floor food for forgot
found friend friends from full funny game garden gave get gift give glad go going gone good got great had half
hand hands happy hard has hate have he head hear heart help her here him his home hope horrible hot hour hours
house how hurt i if in into is it job joy just keep key keys kind kitchen know last late later laugh leave
left less let letter lies life light like little live long look lost lot loud love lunch made make man many
may me meet miss missed money monday more morning mother move much music must my near need never new news next
nice night no nobody none not nothing now of off office often old on once one only open or other our out over
own paper party people perfect phone place plan please problem put quiet rain ran read ready really rest right
road room ruin ruined run sad said same saw say school see she shop should show sick sing sister sit sky sleep
slow small smile so some something song soon sorry spring stand start station still stop story street such
summer sun sure table take talk tea tell than thank that the their them then there these they thing things
think this those though time tired to today together told tomorrow too took train tree true try turn two under
until up us very wait waited walk wall want warm was watch water way we weather week well went were what when
where which while white who whole why will wind window winter wish with without won wonderful word words work
world worse worst would write wrong yellow yes yesterday yet you your
"""
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MARKS = "abcdefghijklmnopqrstuvwxyz0123456789äöüßéèêñçœæøå.,!?;:'\"-()[]&%$/"


def _size(spec: str) -> Size:
    name = spec.removeprefix(PREFIX)
    if name not in SIZES:
        raise EncoderError(f"{spec!r}: no such built-in encoder; there are: {', '.join(PREFIX + n for n in SIZES)}")
    return SIZES[name]


def speech_model(spec: str) -> Wav2Vec2Model:
    """The untrained wav2vec 2.0 of a name such as ``builtin:tiny`` (group norm, as wav2vec2-base has).

    Raises:
        EncoderError: no such name.
    """
    size = _size(spec)
    config = Wav2Vec2Config(
        hidden_size=size.width,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        conv_dim=(size.convolution,) * 7,
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=4,
        apply_spec_augment=False,
    )
    return _fill(Wav2Vec2Model(config))


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
        hidden_size=size.width,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
    )
    return _fill(BertModel(config, add_pooling_layer=False)), fast


def _fill(model: nn.Module) -> nn.Module:
    """Weights from a generator of our own, so that no release of torch or transformers changes them.

    Matrices and filters get normal values of deviation 1 / sqrt(fan-in) (activations keep their size through the
    stack), embeddings deviation 1, norms 1 and biases 0. Each tensor's generator is seeded by the tensor's name.
    """
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
            if "embeddings" in name and tensor.ndim == 2:
                values = generator.standard_normal(tensor.shape)
            elif name.endswith("original0"):  # gain of the weight-normalised positional convolution
                values = np.ones(tensor.shape)
            elif tensor.ndim >= 2:
                values = generator.standard_normal(tensor.shape) / np.sqrt(np.prod(tensor.shape[1:]))
            else:
                values = np.full(tensor.shape, float(name.endswith("weight")))
            tensor.copy_(torch.from_numpy(np.asarray(values, np.float32)))
    return model.eval()
