"""The contract of mmser.heads, for every head in HEADS, and what each head computes."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.heads.attention import Block
from mmser.heads.batch import LINKS, Batch, Inputs, Sequence
from mmser.heads.coattention import CoAttentionOptions, PairLayer
from mmser.heads.dropout import number_dropouts
from mmser.heads.layers import LayerMix, Pool, PooledStream, Standardise, masked_mean, masked_std
from mmser.heads.moe import Layers
from mmser.heads.speech_probe import SpeechProbe, SpeechProbeOptions

B, T, N, D, E = 4, 6, 5, 12, 10
INPUTS = Inputs(speech_dim=D, text_dim=E, granularities=("word", "phone"), mel_dim=E)

VARIANTS = [
    ("speech-probe", {}),
    ("speech-probe", {"pooling": "mean+std", "hidden": 0, "dropout": 0.3}),
    ("text-probe", {}),
    ("text-probe", {"pooling": "mean+std", "hidden": 0, "dropout": 0.3}),
    ("coattention", {"width": 16, "heads": 4}),
    ("coattention", {"width": 16, "heads": 2, "blocks": 2, "self_attention": "before", "pooling": "mean+std"}),
    ("coattention", {"width": 8, "heads": 1, "self_attention": "after", "pooling": "attention", "feedforward": False}),
    ("coattention", {"width": 8, "heads": 2, "blocks": 2, "queries": "last", "positions": "word"}),
    ("cls-coattention", {"width": 8, "heads": 2}),
    ("cls-coattention", {"width": 8, "heads": 1, "summary": "attention", "feedforward": False, "block_dropout": 0.0}),
    ("bayesian-coattention", {"width": 8, "heads": 2}),
    ("bayesian-coattention", {"width": 8, "heads": 1, "shape": 1.0, "prior": "none", "pooling": "attention"}),
    ("bayesian-coattention", {"width": 8, "heads": 2, "prior": "lexicon"}),
    ("crossmodal-transformer", {"width": 8, "heads": 2, "blocks": 2, "focus": 3.0, "positions": "time"}),
    ("crossmodal-transformer", {"width": 8, "heads": 1, "blocks": 1, "self_attention": False, "pooling": "mean+std"}),
    ("mmer-cross", {"width": 8, "heads": 2}),
    ("mmer-cross", {"width": 8, "heads": 1, "feedforward": False}),
    ("attention-pool", {"width": 8, "positions": "word"}),
    ("aligned-words", {"width": 8, "heads": 2}),
    ("aligned-words", {"width": 8, "heads": 1, "blocks": 0, "pooling": "mean+std"}),
    ("film", {"width": 8}),
    ("film", {"width": 8, "pooling": "attention", "dropout": 0.0}),
    ("moe", {"width": 8}),
    ("moe", {"width": 8, "layers": "experts", "gate_hidden": 4}),
    ("moe", {"width": 8, "spectral": "mel"}),
    ("moe", {"width": 8, "spectral": "mel", "text": "none"}),
    ("conditioned-states", {"width": 8}),
    ("text-network", {"hidden": 8}),
]


def test_every_head_is_under_test() -> None:
    """Those that always read log-mel frames are in test_system_b.py."""
    assert {kind for kind, _ in VARIANTS} == {kind for kind in HEADS if not HEADS[kind].needs_mel}


def text_layers(layers: int) -> int:
    """Where speech layers are mixed text layers are too, of another number."""
    return layers if layers == 1 else layers + 1


def a_head(kind: str, options: dict, layers: int = 1, seed: int = 0, inputs: Inputs = INPUTS) -> nn.Module:
    torch.manual_seed(seed)
    inputs = replace(inputs, speech_layers=layers, text_layers=text_layers(layers))
    head = HEADS[kind].build(inputs, 3, HEADS[kind].options(**options))
    for module in head.modules():
        if isinstance(module, Standardise):
            module.mean.copy_(torch.randn(module.mean.shape))
            module.std.copy_(torch.rand(module.std.shape) + 0.5)
    return head


def a_sequence(lengths: list[int], width: int, dim: int, layers: int = 1, seed: int = 0) -> Sequence:
    """Random states, two a word; what lies in the padding is a large random number, different for every width."""
    noise = torch.Generator().manual_seed(1000 * width + seed)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    values = 1e3 * torch.randn(len(lengths), layers, width, dim, generator=noise)
    for b, length in enumerate(lengths):
        states = torch.randn(layers, length, dim, generator=torch.Generator().manual_seed(100 * seed + b))
        values[b, :, :length] = states
    places = torch.arange(width).expand_as(mask)
    word = torch.where(mask & (places != 3), places // 2, -1)  # the fourth state belongs to no word
    time = torch.where(word >= 0, 0.1 + 0.2 * places, -1.0)
    lexicon = torch.where(word >= 0, 0.3 * word, 0.0)
    return Sequence(values if layers > 1 else values[:, 0], mask, word, time, lexicon)


def a_batch(extra: int = 0, layers: int = 1, key: int | None = None, empty: bool = False) -> Batch:
    speech = {
        "word": a_sequence([3, 0 if empty else 1, T, 2], T + extra, D, layers, seed=1),
        "phone": a_sequence([5, 0 if empty else 4, 2, T + 2], T + 2 + 3 * extra, D, layers, seed=2),
    }
    text = a_sequence([N, 0 if empty else 2, 1, 4], N + 2 * extra, E, text_layers(layers), seed=3)
    mel = a_sequence([6, 0 if empty else 3, 2, 4], 6 + extra, E, seed=4)
    return Batch(speech, text, None if key is None else 1000 * key + torch.arange(4), mel)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("key", [None, 7])
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_padding_never_changes_an_output(kind: str, options: dict, empty: bool, key: int | None, layers: int) -> None:
    head = a_head(kind, options, layers)
    short, long = (head(a_batch(extra, layers, key, empty)) for extra in (0, 5))
    assert short.shape == (B, 3)
    assert torch.isfinite(short).all()
    torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_gradients_are_finite_with_empty_sequences(kind: str, options: dict) -> None:
    head = a_head(kind, options)
    head(a_batch(empty=True)).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part"
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_a_stack_gives_what_its_members_give(kind: str, options: dict) -> None:
    heads = [a_head(kind, options, seed=seed) for seed in range(3)]
    batches = [a_batch(key=seed) for seed in range(3)]
    stacked = torch.utils._pytree.tree_map(
        lambda *leaves: torch.stack(leaves) if isinstance(leaves[0], Tensor) else None, *batches
    )
    axes = torch.utils._pytree.tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, stacked)
    one = lambda p, b, batch: functional_call(heads[0], (p, b), (batch,))  # noqa: E731
    outputs = vmap(one, in_dims=(0, 0, axes))(*stack_module_state(heads), stacked)
    for head, batch, output in zip(heads, batches, outputs, strict=True):
        torch.testing.assert_close(output, head(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_dropout_needs_a_key_and_depends_on_it(kind: str, options: dict) -> None:
    head = a_head(kind, options)
    plain, first, second = head(a_batch()), head(a_batch(key=1)), head(a_batch(key=2))
    drawn = {**vars(HEADS[kind].options()), **options}
    has_dropout = any(drawn.get(name) for name in ("dropout", "block_dropout", "shape"))
    assert torch.equal(first, second) != has_dropout
    assert torch.equal(plain, first) != has_dropout


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_who_says_that_means_suffice_is_content_with_them(kind: str, options: dict, layers: int) -> None:
    def mean(sequence: Sequence) -> Sequence:
        values = masked_mean(sequence.values, sequence.mask).unsqueeze(-2)
        return Sequence(values, sequence.mask.any(1, keepdim=True), *(own[:, :1] for own in sequence[2:5]))

    head, whole = a_head(kind, options, layers), a_batch(layers=layers, empty=True)
    means = whole._replace(speech={name: mean(own) for name, own in whole.speech.items()}, text=mean(whole.text))
    alike = torch.allclose(head(means), head(whole), rtol=1e-5, atol=1e-5)
    assert alike == HEADS[kind].reads_means(head.options)


@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_a_head_is_its_features_and_a_linear_layer(kind: str, options: dict) -> None:
    """A fusion of the members' features trains that layer anew."""
    head, batch = a_head(kind, options, layers=2), a_batch(layers=2)
    features = head.features(batch)
    assert features.shape == (B, head.classify.in_features)
    torch.testing.assert_close(features @ head.classify.weight.T + head.classify.bias, head(batch))


@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_a_head_without_links_reads_none(kind: str, options: dict) -> None:
    asked = HEADS[kind].links(HEADS[kind].options(**options))
    lexicon = {"lexicon"} if options.get("prior") == "lexicon" else set()
    assert asked == ({"word"} if kind == "aligned-words" else {options.get("positions", "none")} - {"none"} | lexicon)
    whole = a_batch()

    def bare(sequence: Sequence) -> Sequence:
        absent = {name: None for name in LINKS if name not in asked}
        return sequence._replace(**absent)

    batch = Batch({name: bare(own) for name, own in whole.speech.items()}, bare(whole.text), None, whole.mel)
    head = a_head(kind, options)
    assert torch.equal(head(batch), head(whole))


@pytest.mark.parametrize("kind", HEADS)
def test_options_can_be_built_without_arguments_and_are_frozen(kind: str) -> None:
    options = HEADS[kind].options()
    with pytest.raises(AttributeError):
        options.dropout = 0.5


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("speech-probe", {"pooling": "max"}, "pooling is 'max'; expected one of: mean, mean+std"),
        ("text-probe", {"dropout": 1.0}, "dropout is 1; expected at least 0 and less than 1"),
        ("coattention", {"width": 100, "heads": 8}, "width 100 does not divide among 8 heads"),
        ("coattention", {"blocks": 0}, "blocks is 0; expected at least 1"),
        ("coattention", {"queries": "first"}, "queries is 'first'; expected one of: all, last"),
        (
            "coattention",
            {"queries": "last", "pooling": "mean+std"},
            "pooling is 'mean+std', and queries=last",
        ),
        ("coattention", {"positions": "index"}, "positions is 'index'; expected one of: none, word, time"),
        ("cls-coattention", {"summary": "cls"}, "summary is 'cls'; expected one of: mean, attention"),
        ("bayesian-coattention", {"shape": 0}, "shape is 0; expected more"),
        ("bayesian-coattention", {"prior": "flat"}, "prior is 'flat'; expected one of: contextual, lexicon, none"),
        ("crossmodal-transformer", {"focus": 0}, "focus is 0; expected more"),
        ("aligned-words", {"blocks": -1}, "blocks is -1; expected at least 0"),
        ("film", {"pooling": "max"}, "pooling is 'max'; expected one of: mean, mean+std, attention"),
        ("moe", {"layers": "all"}, "layers is 'all'; expected one of: mix, experts"),
        ("moe", {"text": "all"}, "text is 'all'; expected one of: mean, none"),
        ("coattention", {"self_attention": "both"}, "self_attention is 'both'; expected one of: none, before, after"),
    ],
)
def test_wrong_options_are_named(kind: str, options: dict, message: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(message)):
        HEADS[kind].options(**options)


def test_heads_that_are_not_there_divide_nothing() -> None:
    options = HEADS["aligned-words"].options(width=100, blocks=0)
    assert HEADS["aligned-words"].build(Inputs(D, E, ("word",)), 2, options).num_outputs == 2


def test_wrong_inputs_are_named() -> None:
    with pytest.raises(ProtocolError, match="granularities word, letter: expected different ones of frame"):
        Inputs(D, E, ("word", "letter"))
    speechless = Inputs(0, E, ())
    assert HEADS["text-probe"].build(speechless, 2, HEADS["text-probe"].options()).num_outputs == 2
    with pytest.raises(ProtocolError, match="CoAttention reads speech, but the inputs name no granularity"):
        HEADS["coattention"].build(speechless, 2, HEADS["coattention"].options())


def in_frame_order(probe: SpeechProbe, sequence: Sequence) -> Tensor:
    """SUPERB's probe as published: every frame standardised, mixed and projected, then the mean."""
    stream = probe.streams["frame"]
    frames = (sequence.values - stream.standardise.mean[:, None]) / stream.standardise.std[:, None]
    weights = stream.mix.logits.softmax(0)
    mixed = sum(weights[layer] * frames[:, layer] for layer in range(len(weights)))
    projected = probe.project(mixed)
    means = torch.stack([row[valid].mean(0) for row, valid in zip(projected, sequence.mask, strict=True)])
    return probe.classify(means)


def test_the_probe_that_pools_first_is_superbs_probe_gradients_included() -> None:
    torch.manual_seed(0)
    probe = SpeechProbe(Inputs(D, 0, ("frame",), speech_layers=4), 3, SpeechProbeOptions(hidden=8))
    probe.streams["frame"].mix.logits.data.normal_()
    probe.streams["frame"].standardise.mean.normal_()
    probe.streams["frame"].standardise.std.uniform_(0.5, 2)
    sequence = a_sequence([9, 1, 5, 7], 9, D, layers=4)
    results = []
    for outputs in (probe(Batch({"frame": sequence}, None, None)), in_frame_order(probe, sequence)):
        gradients = torch.autograd.grad(outputs.logsumexp(-1).sum(), list(probe.parameters()))
        results.append((outputs, *gradients))
    for ours, published in zip(*results, strict=True):
        torch.testing.assert_close(ours, published, rtol=1e-5, atol=1e-5)


def test_on_utterance_means_superbs_probe_is_the_one_on_frames_gradients_included() -> None:
    torch.manual_seed(0)
    probes = [SpeechProbe(Inputs(D, 0, (name,), 4), 3, SpeechProbeOptions(hidden=8)) for name in ("frame", "utterance")]
    frames = a_sequence([9, 1, 5, 7], 9, D, layers=4)
    state = probes[0].state_dict()
    state["streams.frame.mix.logits"].normal_()
    state["streams.frame.standardise.mean"].normal_()
    state["streams.frame.standardise.std"].uniform_(0.5, 2)
    probes[1].load_state_dict({name.replace("frame", "utterance"): value for name, value in state.items()})
    means = Sequence(masked_mean(frames.values, frames.mask).unsqueeze(2), torch.ones(4, 1).bool())
    batch = Batch({"utterance": means}, None, None)
    results = []
    for probe, outputs in zip(probes, (in_frame_order(probes[0], frames), probes[1](batch)), strict=True):
        results.append((outputs, *torch.autograd.grad(outputs.logsumexp(-1).sum(), list(probe.parameters()))))
    for published, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, published, rtol=1e-5, atol=1e-5)


def test_pooled_stream_takes_mean_and_deviation_of_standardised_states() -> None:
    stream = PooledStream("word", D, 1, "mean+std")
    stream.standardise.mean.normal_()
    stream.standardise.std.uniform_(0.5, 2.0)
    sequence = a_sequence([3, 0], 6, D)
    states = (sequence.values[0, :3] - stream.standardise.mean) / stream.standardise.std
    pooled = stream(sequence)
    torch.testing.assert_close(pooled[0], torch.cat([states.mean(0), states.std(0, correction=0)]))
    assert not pooled[1].any()  # an empty utterance is the training data's mean


def test_layer_mix_starts_as_the_mean_of_the_layers() -> None:
    values = torch.randn(2, 5, 3, D)
    torch.testing.assert_close(LayerMix(5)(values), values.mean(1))
    torch.testing.assert_close(LayerMix(5)(values[:, :, 0]), values[:, :, 0].mean(1))


def test_masked_statistics_are_those_of_the_valid_steps() -> None:
    values, mask, *_ = a_sequence([4, 1, 0], 6, D)
    torch.testing.assert_close(masked_mean(values, mask)[0], values[0, :4].mean(0))
    torch.testing.assert_close(masked_std(values, mask)[0], values[0, :4].std(0, correction=0))
    assert not masked_mean(values, mask)[2].any()


def test_attention_pooling_weighs_by_the_learned_query() -> None:
    sequence = a_sequence([3, 2], 5, D)
    pool, values = Pool(D, "attention"), sequence.values
    weights = (values[0, :3] @ pool.score.weight[0]).softmax(0)
    torch.testing.assert_close(pool(sequence)[0], weights @ values[0, :3])


def test_a_block_is_torchs_decoder_layer() -> None:
    """A block is nn.MultiheadAttention, residual, norm, feed-forward, residual, norm: compare with torch's parts."""
    torch.manual_seed(0)
    block = Block(16, 4, 0.1)
    query, context = a_sequence([T, 3], T, 16, seed=4), a_sequence([N, 2], N, 16, seed=5)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    attention = block.attention
    theirs.in_proj_weight.data = torch.cat([attention.query.weight, attention.key.weight, attention.value.weight])
    theirs.in_proj_bias.data = torch.cat([attention.query.bias, torch.zeros(16), attention.value.bias])
    theirs.out_proj.load_state_dict(attention.output.state_dict())
    answers, weights = theirs(
        query.values, context.values, context.values, key_padding_mask=~context.mask, average_attn_weights=False
    )
    values = block.attention_norm(query.values + answers)
    values = block.feedforward_norm(values + block.contract(nn.functional.gelu(block.expand(values))))
    ours, (_, (our_weights,)) = block(query, context, None), attention(query, context)
    torch.testing.assert_close(our_weights, weights)
    torch.testing.assert_close(ours.values[query.mask], values[query.mask])


def test_a_block_drops_what_its_parts_add_and_nothing_of_what_they_add_to() -> None:
    torch.manual_seed(0)
    block, key = Block(16, 4, 0.3), torch.tensor([11, 12])
    number_dropouts(block)
    query, context = a_sequence([T, 3], T, 16, seed=4), a_sequence([N, 2], N, 16, seed=5)
    masks = [d.keep((2, T, 16), key) / 0.7 for d in (block.attention_dropout, block.feedforward_dropout)]
    assert not torch.equal(*masks)
    answers, _ = block.attention(query, context)
    values = block.attention_norm(query.values + answers * masks[0])
    thoughts = block.contract(nn.functional.gelu(block.expand(values)))
    expected = block.feedforward_norm(values + thoughts * masks[1])
    torch.testing.assert_close(block(query, context, key).values[query.mask], expected[query.mask])


@pytest.mark.parametrize("layers", [1, 3])
def test_an_empty_sequence_is_the_mean_of_the_training_data_whichever_way_it_is_pooled(layers: int) -> None:
    """Which is 0 once standardised: nothing of the statistics may be left."""
    stream = PooledStream("word", D, layers, "mean")
    sequence = a_sequence([0, 3], 5, D, layers)
    with torch.no_grad():
        stream.standardise.mean.normal_()
        stream.standardise.std.uniform_(0.5, 2.0)
    weight = torch.randn(3, D)
    assert torch.equal(stream(sequence)[0], torch.zeros(D))
    assert torch.equal(stream.product(weight, sequence)[0], torch.zeros(3))
    assert stream.product(weight, sequence)[1].abs().min() > 0
    if layers > 1:
        each = Layers("word", D, layers)
        each.standardise.load_state_dict(stream.standardise.state_dict())
        assert all(torch.equal(own[0], torch.zeros(D)) for own in each(sequence))


def test_each_stream_asks_the_other_as_it_was_before() -> None:
    torch.manual_seed(0)
    layer = PairLayer(CoAttentionOptions(width=8, heads=2))
    speech, text = a_sequence([T, 3], T, 8, seed=4), a_sequence([N, 2], N, 8, seed=5)
    new_speech, new_text = layer(speech, text, None)
    torch.testing.assert_close(new_speech.values, layer.speech(speech, text, None).values)
    torch.testing.assert_close(new_text.values, layer.text(text, speech, None).values)


@pytest.mark.parametrize("when", ["before", "after"])
def test_self_attention_comes_when_it_is_asked_for(when: str) -> None:
    torch.manual_seed(0)
    layer = PairLayer(CoAttentionOptions(width=8, heads=2, self_attention=when))
    speech, text = a_sequence([T, 3], T, 8, seed=4), a_sequence([N, 2], N, 8, seed=5)
    found, _ = layer(speech, text, None)
    if when == "before":
        speech, text = layer.speech_self(speech, speech, None), layer.text_self(text, text, None)
    expected = layer.speech(speech, text, None)
    if when == "after":
        expected = layer.speech_self(expected, expected, None)
    torch.testing.assert_close(found.values, expected.values)


WAYS = ("speech_to_text", "text_to_speech")
ATTENTIONS = {
    "coattention": ({"blocks": 2}, "pairs.{}.layers.{}", ("speech", "text"), 2),
    "cls-coattention": ({}, "", ("speech_asks.{}", "text_asks.{}"), 1),
    "bayesian-coattention": ({}, "pairs.{}", ("speech", "text"), 1),
    "crossmodal-transformer": ({"blocks": 2}, "", ("speech.{}.blocks.{}", "text.{}.blocks.{}"), 2),
    "mmer-cross": ({}, "pairs.{}", ("speech_asks_text", "text_asks_speech"), 1),
}
"""By kind: options, where its blocks are, those that ask each way, and how many there are of each."""


def attentions_by_hand(kind: str) -> dict[str, str]:
    """The path of each attention module, by the name of its weights."""
    _, outer, inner, blocks = ATTENTIONS[kind]
    named = {
        f"{name}.{block}.{way}": f"{outer}.{own}.attention".lstrip(".").format(name, block)
        for name in ("word", "phone")
        for block in range(blocks)
        for way, own in zip(WAYS, inner, strict=True)
    }
    if kind == "mmer-cross":
        back = {f"{name}.1.text_to_speech": f"pairs.{name}.text_asks_answers.attention" for name in ("word", "phone")}
        named = {name: own for one in ("word", "phone") for name, own in (named | back).items() if name.startswith(one)}
    return named


def test_the_heads_with_attention_between_streams_are_known() -> None:
    assert {kind for kind in HEADS if HEADS[kind].shows_attention} == set(ATTENTIONS)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_weights_on_request(kind: str) -> None:
    head = a_head(kind, {"width": 16, "heads": 4, **ATTENTIONS[kind][0]})
    batch = a_batch(empty=True)
    outputs, weights = head.forward_with_attention(batch)
    torch.testing.assert_close(outputs, head(batch))
    by_hand = attentions_by_hand(kind)
    assert list(weights) == list(by_hand)
    assert by_hand == head.attentions()
    steps = {"word": T, "phone": T + 2, "text": N}
    for name, found in weights.items():
        granularity, _, way = name.split(".")
        asking, asked = (granularity, "text") if way == WAYS[0] else ("text", granularity)
        rows = 1 if head.summary_asks else steps[asking]
        assert found.shape == (B, 4, rows, steps[asked])
        mask = batch.text.mask if asked == "text" else batch.speech[asked].mask
        whole = (found * mask[:, None, None]).sum(-1)  # none on padding, and none where there is nothing
        torch.testing.assert_close(whole, mask.any(-1).float()[:, None, None].expand_as(whole))
    if kind != "bayesian-coattention":  # whose prior looks all the same
        for name, path in by_hand.items():  # who asks nothing looks evenly, and says so by its own name
            one = copy.deepcopy(head)
            for parameter in dict(one.named_modules())[path].query.parameters():
                parameter.data.zero_()
            even = one.forward_with_attention(batch)[1]
            of_text = name.endswith(WAYS[0])
            mask = (batch.text if of_text else batch.speech[name.split(".")[0]]).mask
            expected = mask / mask.sum(-1, keepdim=True).clamp(min=1)
            torch.testing.assert_close(even[name], expected[:, None, None].expand_as(even[name]))
            assert not torch.allclose(weights[name], even[name])
    assert not any(module._forward_hooks for module in head.modules())
