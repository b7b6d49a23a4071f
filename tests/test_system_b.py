"""CNN14, its conditioning, the text network and the adaptation to cached states: each against plain torch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.heads.batch_norm import MaskedBatchNorm
from mmser.heads.conditioned_states import Convolution
from mmser.heads.dropout import KeyedDropout
from mmser.heads.store import load_head, save_head

BINS, WORDS, DIM, NARROW = 64, 7, 5, 1 / 32
INPUTS = Inputs(speech_dim=DIM, text_dim=WORDS, granularities=("word",), mel_dim=BINS)


class PlainCnn14(nn.Module):
    """As in PANNs' code (Kong et al. 2020), written anew: no masks, no conditioning, in the order of the paper."""

    def __init__(self, channels: list[int], num_outputs: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(BINS)
        layers = []
        for number, (before, after) in enumerate(zip([1, *channels], channels, strict=False)):
            layers += [nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.AvgPool2d(2 if number < 5 else 1)]
        self.convolutions = nn.Sequential(*layers)
        self.fc1 = nn.Linear(channels[-1], channels[-1])
        self.last = nn.Linear(channels[-1], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn0(x[:, None].transpose(1, 3)).transpose(1, 3)
        x = self.convolutions(x).mean(3)
        return self.last(F.relu(self.fc1(x.max(2).values + x.mean(2))))


def a_head(kind: str, seed: int = 0, **options: object) -> nn.Module:
    """With every parameter and buffer away from its first value, where a mistake could hide."""
    torch.manual_seed(seed)
    head = HEADS[kind].build(INPUTS, 3, HEADS[kind].options(**options))
    with torch.no_grad():
        for name, value in [*head.named_parameters(), *head.named_buffers()]:
            if value.is_floating_point():
                value += 0.1 * torch.randn_like(value).abs() if "var" in name else 0.1 * torch.randn_like(value)
    return head


def mel_of(lengths: list[int], extra: int = 0, seed: int = 0) -> Sequence:
    """Decibels; in the padding large numbers that differ with its width."""
    width = max(lengths) + extra
    values = 1e3 * torch.randn(len(lengths), width, BINS, generator=torch.Generator().manual_seed(width))
    for row, length in enumerate(lengths):
        frames = torch.randn(length, BINS, generator=torch.Generator().manual_seed(100 * seed + row))
        values[row, :length] = 10 * frames - 20
    return Sequence(values, torch.arange(width) < torch.tensor(lengths)[:, None])


def a_batch(lengths: list[int], extra: int = 0, key: int | None = None) -> Batch:
    generator = torch.Generator().manual_seed(5)
    states = [torch.randn(len(lengths), 4, dim, generator=generator) for dim in (WORDS, DIM)]
    counts = torch.tensor([[n % 5] for n in lengths])  # none for some
    filled = [F.pad(own, (0, 0, 0, extra), value=77.0) for own in states]
    text, word = (Sequence(own, torch.arange(4 + extra) < counts) for own in filled)
    return Batch({"word": word}, text, None if key is None else torch.tensor(key), mel_of(lengths, extra))


def copied(head: nn.Module) -> PlainCnn14:
    channels = [block.conv1.out_channels for block in head.blocks]
    plain = PlainCnn14(channels, 3)
    parts = [part for block in head.blocks for part in (block.conv1, block.norm1, block.conv2, block.norm2)]
    theirs = [m for m in plain.convolutions if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    for mine, other in zip(
        [head.norm, *parts, head.embed, head.classify], [plain.bn0, *theirs, plain.fc1, plain.last], strict=True
    ):
        other.load_state_dict(mine.state_dict())
    return plain


def test_cnn14_is_the_plain_definition_in_evaluation_and_in_training() -> None:
    head = a_head("cnn14", width_multiplier=NARROW, dropout=0.0, block_dropout=0.0)
    plain = copied(head)
    batch = a_batch([70, 70, 70])
    for mode in (True, False):  # training first: then evaluation reads what training left in the norms
        torch.testing.assert_close(head.train(mode)(batch), plain.train(mode)(batch.mel.values), rtol=1e-5, atol=1e-5)
    for mine, other in zip(head.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, other)


def test_cnn14_has_the_papers_size() -> None:
    with torch.device("meta"):
        head = HEADS["cnn14"].build(INPUTS, 527, HEADS["cnn14"].options())
        plain = PlainCnn14([64, 128, 256, 512, 1024, 2048], 527)
    sizes = [sum(p.numel() for p in one.parameters()) for one in (head, plain)]
    assert sizes[0] == sizes[1] == 80_753_615  # PANNs: 80.75 million with AudioSet's 527 classes


@pytest.mark.parametrize("options", [{}, {"conditioning": "single"}, {"conditioning": "multistage"}])
@pytest.mark.parametrize(("training", "key"), [(False, None), (True, 3)])
def test_padding_and_company_change_nothing(options: dict, training: bool, key: int | None) -> None:
    kind = "conditioned-cnn14" if options else "cnn14"
    head = a_head(kind, width_multiplier=NARROW, **options).train(training)
    lengths = [65, 128, 33, 20, 0]
    short, long = head(a_batch(lengths, key=key)), head(a_batch(lengths, extra=67, key=key))
    assert torch.isfinite(short).all()
    torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-5)
    if not training:  # in training the batch norms look at the company: that is what they are
        together = a_batch(lengths)
        for row, length in enumerate(lengths):
            text, mel = (
                Sequence(s.values[row : row + 1], s.mask[row : row + 1]) for s in (together.text, together.mel)
            )
            alone = Batch({}, text, None, Sequence(mel.values[:, : max(1, length)], mel.mask[:, : max(1, length)]))
            torch.testing.assert_close(head(alone)[0], short[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm_of_valid_frames_is_torchs_of_those_frames(relu: bool) -> None:
    ours, theirs = MaskedBatchNorm(3, relu).double(), nn.BatchNorm2d(3).double()
    values, mask = (torch.randn(3, 3, 6, 4) + 5).double(), torch.arange(6) < torch.tensor([[6], [2], [0]])
    values[:, 2] = values[:, 2] * 1e-3  # there epsilon matters
    ours.weight.data.uniform_(0.5, 2)
    ours.bias.data.uniform_(-0.5, 0.5)
    theirs.load_state_dict(ours.state_dict())
    values.requires_grad_()
    for _ in range(2):  # the second time from running statistics that are not as built
        flat = torch.cat([values[0], values[1, :, :2]], 1)[None]  # (1, 3, 8, 4)
        found, expected = ours(values, mask), theirs(flat).relu() if relu else theirs(flat)
        torch.testing.assert_close(torch.cat([found[0], found[1, :, :2]], 1)[None], expected)
        assert not found[1, :, 2:].any()
        assert not found[2].any()
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other)
    towards = torch.randn_like(found)  # not 0 in the padding
    wanted = torch.autograd.grad(
        (expected * torch.cat([towards[0], towards[1, :, :2]], 1)).sum(), [values, *theirs.parameters()]
    )
    for mine, other in zip(torch.autograd.grad(found, [values, *ours.parameters()], towards), wanted, strict=True):
        torch.testing.assert_close(mine, other)


def dropped(dropout: KeyedDropout, values: Tensor, key: Tensor | None) -> Tensor:
    """As any dropout has it, of the elements that this one keeps."""
    assert dropout.rate > 0
    return values if key is None else values * dropout.keep(values.shape, key) / (1 - dropout.rate)


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({"conditioning": "multistage"}, ["1", "2", "3", "4", "5", "6"]),
        ({"conditioning": "single"}, ["6"]),
        ({"conditioning": "single", "condition_at": "2"}, ["2"]),
        ({"conditioning": "single", "condition_at": "embedding"}, ["embedding"]),
    ],
)
@pytest.mark.parametrize("keys", [None, [7, 8, 9]])
def test_conditioning_adds_relu_of_a_projection_behind_each_block_and_before_its_dropout(
    options: dict, places: list[str], keys: list[int] | None
) -> None:
    head = a_head("conditioned-cnn14", width_multiplier=NARROW, **options).eval()
    assert list(head.condition.projections) == places
    batch = a_batch([96, 96, 96])._replace(key=None if keys is None else torch.tensor(keys))
    x = copied(head).eval()
    tokens = [row[valid] for row, valid in zip(batch.text.values, batch.text.mask, strict=True)]
    summary = torch.stack([row.mean(0) if len(row) else torch.zeros(WORDS) for row in tokens])
    filled = torch.tensor([[float(len(row) > 0)] for row in tokens])
    summary = (summary - head.text.standardise.mean) / head.text.standardise.std * filled

    def added(place: str) -> Tensor | float:
        if place not in places:
            return 0.0
        layer = head.condition.projections[place]
        found = F.relu(summary @ layer.weight.T + layer.bias)
        return found if place == "embedding" else found[:, :, None, None]

    z = x.bn0(batch.mel.values[:, None].transpose(1, 3)).transpose(1, 3)
    for block in range(6):
        z = x.convolutions[7 * block : 7 * block + 7](z) + added(str(block + 1))
        z = dropped(head.block_dropouts[block], z, batch.key)
    z = z.mean(3)
    z = dropped(head.pooled_dropout, z.max(2).values + z.mean(2), batch.key)
    z = F.relu(x.fc1(z)) + added("embedding")
    expected = x.last(dropped(head.dropout, z, batch.key))
    torch.testing.assert_close(head(batch), expected, rtol=1e-5, atol=1e-5)


def test_dropout_follows_the_key_and_gradients_reach_every_parameter() -> None:
    head = a_head("conditioned-cnn14", width_multiplier=NARROW).eval()
    one, two, none = (head(a_batch([64, 40], key=key)) for key in (1, 2, None))
    assert not torch.equal(one, two)
    assert not torch.equal(one, none)
    assert torch.equal(one, head(a_batch([64, 40], key=1)))
    head.train()(a_batch([64, 41], key=1)).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_a_saved_cnn14_says_the_same_its_batch_norms_included(tmp_path) -> None:
    head = a_head("conditioned-cnn14", width_multiplier=NARROW).train()
    head(a_batch([64, 50, 41], key=1))  # moves the running statistics
    save_head(head, tmp_path / "head", {})
    loaded, _ = load_head(tmp_path / "head")
    assert not loaded.training
    assert torch.equal(loaded(a_batch([64, 50, 41])), head.eval()(a_batch([64, 50, 41])))
    assert loaded.norm.num_batches_tracked == 1


def test_wrong_options_and_inputs_are_named() -> None:
    options = HEADS["conditioned-cnn14"].options
    with pytest.raises(ProtocolError, match="condition_at is '7'; expected one of: 1, 2, 3, 4, 5, 6, embedding"):
        options(condition_at="7")
    with pytest.raises(ProtocolError, match="condition_at is 'embedding', which is the place of conditioning=single"):
        options(condition_at="embedding")
    with pytest.raises(ProtocolError, match=r"condition_at is '1', which .*; found none: give conditioning=single too"):
        HEADS["conditioned-states"].options(conditioning="none", condition_at="1")
    with pytest.raises(ProtocolError, match="conditioning is 'all'; expected one of: single, multistage"):
        options(conditioning="all")
    with pytest.raises(ProtocolError, match=r"width_multiplier is 0.001; expected at least 0.015625"):
        options(width_multiplier=0.001)
    with pytest.raises(ProtocolError, match="at least 32, found 20"):
        HEADS["cnn14"].build(replace(INPUTS, mel_dim=20), 3, HEADS["cnn14"].options())
    with pytest.raises(ProtocolError, match="reads log-mel spectrograms, but the inputs have mel_dim 0"):
        HEADS["cnn14"].build(replace(INPUTS, mel_dim=0), 3, HEADS["cnn14"].options())
    with pytest.raises(ProtocolError, match="kernel is 4; expected an odd number"):
        HEADS["conditioned-states"].options(kernel=4)


def test_a_convolution_as_a_product_is_torchs_convolution() -> None:
    torch.manual_seed(0)
    ours = Convolution(DIM, 6, 5)
    weight = ours.linear.weight.reshape(6, 5, DIM).transpose(1, 2)  # (out, in, kernel)
    values = torch.randn(3, 9, DIM)
    expected = F.conv1d(values.transpose(1, 2), weight, padding=2).transpose(1, 2)
    torch.testing.assert_close(ours(values), F.relu(F.layer_norm(expected, (6,))))


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({"conditioning": "multistage"}, ["1", "2"]),
        ({"conditioning": "single"}, ["2"]),
        ({"conditioning": "single", "condition_at": "last"}, ["2"]),
        ({"conditioning": "single", "condition_at": "1"}, ["1"]),
        ({"conditioning": "single", "condition_at": "embedding"}, ["embedding"]),
        ({"conditioning": "none"}, []),
    ],
)
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("keys", [None, [7, 8, 9, 10]])
def test_conditioned_states_by_hand(options: dict, places: list[str], pool: int, keys: list[int] | None) -> None:
    head = a_head("conditioned-states", width=6, blocks=2, pool=pool, **options)
    batch = a_batch([4, 3, 2, 1])._replace(key=None if keys is None else torch.tensor(keys))
    stack = head.stacks_of["word"]
    summary = head.text(batch.text) if places else None
    for row, count in enumerate([4, 3, 2, 1]):

        def added(place: str, row: int = row) -> Tensor | float:
            condition = head.condition if place == "embedding" else stack.condition
            return F.relu(condition.projections[place](summary[row])) if place in places else 0.0

        key = None if batch.key is None else batch.key[row : row + 1]
        z = stack.input(batch.speech["word"].values[row : row + 1, :count])
        for number in range(2):
            z = stack.second[number](stack.first[number](z))
            z = torch.stack([part.mean(1) for part in z.split(pool, 1)], 1)  # the last of an odd number stands alone
            z = dropped(stack.dropouts[number], z + added(str(number + 1)), key)
        z = z.max(1).values + z.mean(1) + added("embedding")
        expected = head.classify(dropped(head.dropout, z, key))
        torch.testing.assert_close(head(batch)[row : row + 1], expected, rtol=1e-5, atol=1e-5)


def test_the_text_network_is_a_feed_forward_net_on_the_mean_of_the_tokens() -> None:
    head = a_head("text-network", hidden=6, hidden_layers=3)
    plain = nn.Sequential(*(m for layer in head.hidden for m in (layer, nn.ReLU())), head.classify)
    batch = a_batch([4, 3])
    scale = head.text.standardise
    means = torch.stack([batch.text.values[0, :4].mean(0), batch.text.values[1, :3].mean(0)])
    torch.testing.assert_close(head(batch), plain((means - scale.mean) / scale.std))
