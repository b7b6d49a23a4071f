"""What each head computes, written out again: utterance by utterance, without padding, with torch's own modules."""

import math
from collections.abc import Callable

import pytest
import torch
from test_heads import INPUTS, B, D, E, a_batch, a_head, a_sequence
from torch import Tensor, nn
from torch.nn import functional as F

from mmser.heads.aligned_words import first_of_word, mean_of_word
from mmser.heads.attention import Attention, Block, encoding, places
from mmser.heads.batch import Batch, Sequence
from mmser.heads.bayesian_coattention import StochasticAttention
from mmser.heads.dropout import KeyedUniform, number_dropouts
from mmser.heads.layers import last_state, masked_max

WORDS = INPUTS.granularities


def torchs(attention: Attention) -> nn.MultiheadAttention:
    """torch's attention with the same weights."""
    width = attention.query.in_features
    theirs = nn.MultiheadAttention(width, attention.heads, batch_first=True)
    theirs.in_proj_weight.data = torch.cat([attention.query.weight, attention.key.weight, attention.value.weight])
    theirs.in_proj_bias.data = torch.cat([attention.query.bias, torch.zeros(width), attention.value.bias])
    theirs.out_proj.load_state_dict(attention.output.state_dict())
    return theirs


def ask(
    block: Block, query: Tensor, context: Tensor, options: object, focus: float = 1.0, prior: Tensor | None = None
) -> Tensor:
    """A block on one utterance: (T, width) asks (N, width), of which each has a ``prior`` (N,)."""
    theirs = torchs(block.attention)
    theirs.in_proj_weight.data[: query.shape[-1]] *= focus
    theirs.in_proj_bias.data[: query.shape[-1]] *= focus
    added = None if prior is None else prior.expand(len(query), -1)
    values = block.attention_norm(query + theirs(query[None], context[None], context[None], attn_mask=added)[0][0])
    if not options.feedforward:
        return values
    return block.feedforward_norm(values + block.contract(F.gelu(block.expand(values))))


def standardised(module: nn.Module, sequence: Sequence, b: int) -> Tensor:
    """The valid states of utterance b, standardised by a module that has ``standardise``."""
    return (sequence.values[b][sequence.mask[b]] - module.standardise.mean) / module.standardise.std


def projected(module: nn.Module, sequence: Sequence, b: int, positions: str = "none") -> Tensor:
    values = module.project(standardised(module.input, sequence, b))
    if positions != "none":
        values = values + encoding(places(sequence, positions)[b][sequence.mask[b]], values.shape[-1])
    return values


def pooled(pool: nn.Module, states: Tensor, pooling: str) -> Tensor:
    """(T, D) to (D,), or (2 D,) with the deviation (of a lone state the least that there is)."""
    if pooling == "attention":
        return (states @ pool.score.weight[0]).softmax(0) @ states
    mean = states.mean(0)
    return mean if pooling == "mean" else torch.cat([mean, states.std(0, correction=0).clamp(min=1e-5)])


def each(**values: tuple) -> list[dict]:
    """Each value of each option, the others as they are by default."""
    return [{name: value} for name, own in values.items() for value in own]


def check(kind: str, options: dict, of_one: Callable[[nn.Module, Batch, int], Tensor]) -> None:
    """The head's features are those of ``of_one(head, batch, b)`` for every utterance."""
    head, batch = a_head(kind, options), a_batch(extra=2)
    expected = torch.stack([of_one(head, batch, b) for b in range(B)])
    torch.testing.assert_close(head.features(batch), expected, rtol=1e-5, atol=1e-5)


POOLINGS = ("mean", "mean+std", "attention")
ATTENDING = {"width": 8, "heads": 2}


@pytest.mark.parametrize("positions", ["none", "word", "time"])
def test_attention_pool_weighs_both_streams_by_one_query(positions: str) -> None:
    def of_one(head, batch, b):
        given = {**batch.speech, "text": batch.text}
        states = [
            head.norms[name](projected(head.streams[name], given[name], b, positions)) for name in (*WORDS, "text")
        ]
        return pooled(head.pool, torch.cat(states), "attention")

    check("attention-pool", {"width": 8, "positions": positions}, of_one)


@pytest.mark.parametrize("options", each(summary=("mean", "attention"), feedforward=(True, False)))
def test_cls_coattention_lets_summaries_ask(options: dict) -> None:
    def of_one(head, batch, b):
        text, found, summary = projected(head.text_input, batch.text, b), [], head.options.summary
        of_text = pooled(head.text_summary, text, summary)[None]
        for name in WORDS:
            speech = projected(head.speech_inputs[name], batch.speech[name], b)
            of_speech = pooled(head.speech_summaries[name], speech, summary)[None]
            found.append(ask(head.speech_asks[name], of_speech, text, head.options)[0])
            found.append(ask(head.text_asks[name], of_text, speech, head.options)[0])
        return torch.cat(found)

    check("cls-coattention", {**ATTENDING, **options}, of_one)


@pytest.mark.parametrize("feedforward", [True, False])
def test_mmer_cross_crosses_twice_gates_and_takes_the_maximum(feedforward: bool) -> None:
    def of_one(head, batch, b):
        found, options = [], head.options
        for name in WORDS:
            cross = head.pairs[name]
            speech = projected(cross.speech_input, batch.speech[name], b)
            text = projected(cross.text_input, batch.text, b)
            heard = ask(cross.text_asks_speech, text, speech, options)
            back = ask(cross.text_asks_answers, text, ask(cross.speech_asks_text, speech, text, options), options)
            gated = torch.sigmoid(cross.gate(torch.cat([heard, back], 1))) * back
            found += [heard.max(0).values, gated.max(0).values, speech.mean(0)]
        return torch.cat(found)

    check("mmer-cross", {**ATTENDING, "feedforward": feedforward}, of_one)


@pytest.mark.parametrize(
    "options",
    each(
        positions=("none", "word", "time"),
        pooling=POOLINGS,
        feedforward=(True, False),
        self_attention=(True, False),
        blocks=(1, 3),
    ),
)
def test_crossmodal_blocks_ask_the_others_input_again_and_again(options: dict) -> None:
    def of_one(head, batch, b):
        asked = head.options
        text, found = projected(head.text_input, batch.text, b, asked.positions), []
        for name in WORDS:
            speech = projected(head.speech_inputs[name], batch.speech[name], b, asked.positions)
            for crossing, own, other in ((head.speech[name], speech, text), (head.text[name], text, speech)):
                for number in range(asked.blocks):
                    own = ask(crossing.blocks[number], own, other, asked, focus=2.5)
                if asked.self_attention:
                    own = ask(crossing.inward, own, own, asked)
                found.append(pooled(crossing.pool, own, asked.pooling))
        return torch.cat(found)

    check("crossmodal-transformer", {**ATTENDING, "blocks": 2, "focus": 2.5, **options}, of_one)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_film_scales_and_shifts(pooling: str) -> None:
    def of_one(head, batch, b):
        summary, found = standardised(head.text, batch.text, b).mean(0), []
        for name in WORDS:
            film, speech = head.films[name], projected(head.speech[name], batch.speech[name], b)
            scale = film.weight[:8] @ summary + film.bias[:8]
            shift = film.weight[8:] @ summary + film.bias[8:]
            found.append(pooled(head.pools[name], F.relu(speech + scale * speech + shift), pooling))
        return torch.cat(found)

    check("film", {"width": 8, "pooling": pooling}, of_one)


def gate(head: nn.Module, means: Tensor) -> Tensor:
    """The gate's weights, of a network with one hidden layer or none."""
    if head.options.gate_hidden:
        first, _, last = head.gate
        assert first.out_features == head.options.gate_hidden
        return last(F.gelu(first(means))).softmax(0)
    return (head.gate.weight @ means + head.gate.bias).softmax(0)


@pytest.mark.parametrize("options", each(gate_hidden=(0, 5), spectral=("none", "mel"), text=("mean", "none")))
def test_experts_answer_under_a_gate(options: dict) -> None:
    def of_one(head, batch, b):
        means = [standardised(head.speech[name], batch.speech[name], b).mean(0) for name in WORDS]
        if head.options.text == "mean":
            means.append(standardised(head.text, batch.text, b).mean(0))
        if head.options.spectral == "mel":
            frames = standardised(head.mel, batch.mel, b)
            means.append(pooled(head.mel, frames, "mean+std"))
        gates = gate(head, torch.cat(means))
        return sum(gate * expert(mean) for gate, expert, mean in zip(gates, head.experts, means, strict=True))

    check("moe", {"width": 8, **options}, of_one)


def test_layers_can_be_experts() -> None:
    head, batch = a_head("moe", {"width": 8, "layers": "experts"}, layers=3), a_batch(layers=3)
    assert len(head.experts) == 3 * len(WORDS) + 1
    for b in range(B):
        means = []
        for name in WORDS:
            states, standardise = batch.speech[name].values[b], head.speech[name].standardise
            means += [
                (states[layer, batch.speech[name].mask[b]].mean(0) - standardise.mean[layer]) / standardise.std[layer]
                for layer in range(3)
            ]
        tokens = batch.text.values[b][:, batch.text.mask[b]].mean(1)  # (layers, E)
        layers = (tokens - head.text.standardise.mean) / head.text.standardise.std
        means.append(layers.mean(0))  # the weights of a mix that is not trained are equal
        gates = gate(head, torch.cat(means))
        answer = sum(gate * expert(mean) for gate, expert, mean in zip(gates, head.experts, means, strict=True))
        torch.testing.assert_close(head.features(batch)[b], answer, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", each(pooling=POOLINGS, feedforward=(True, False), blocks=(0, 2)))
def test_aligned_words_puts_each_word_beside_itself(options: dict) -> None:
    def of_one(head, batch, b):
        def means(states: Tensor, sequence: Sequence) -> dict[int, Tensor]:
            word = sequence.word[b][sequence.mask[b]]
            return {int(w): states[word == w].mean(0) for w in word.unique() if w >= 0}

        text = means(standardised(head.text_input, batch.text, b), batch.text)
        speech = [
            means(standardised(head.speech_inputs[name], batch.speech[name], b), batch.speech[name]) for name in WORDS
        ]
        nothing = torch.zeros(D)
        words = torch.stack([torch.cat([text[w], *(own.get(w, nothing) for own in speech)]) for w in sorted(text)])
        states = head.project(words)
        for number in range(head.options.blocks):
            states = ask(head.blocks[number], states, states, head.options)
        return pooled(head.pool, states, head.options.pooling)

    check("aligned-words", {**ATTENDING, **options}, of_one)


def test_words_that_were_not_found_have_no_speech() -> None:
    mask = torch.ones(1, 4).bool()
    tokens = Sequence(torch.randn(1, 4, E), mask, torch.tensor([[0, 2, 2, -1]]))
    states = Sequence(torch.randn(1, 4, D), mask, torch.tensor([[0, 0, 1, -1]]))
    found = mean_of_word(tokens, states)
    torch.testing.assert_close(found[0, 0], states.values[0, :2].mean(0))
    assert not found[0, 1:].any()
    assert first_of_word(tokens).tolist() == [[True, True, False, False]]


def test_random_weights_are_weibull_variables_with_the_scores_mean() -> None:
    """Against scipy-free facts: mean 1 and variance Gamma(1 + 2/k) / Gamma(1 + 1/k)^2 - 1, whatever the score."""
    torch.manual_seed(0)
    attention = StochasticAttention(8, 2, 3.0, "none")
    number_dropouts(attention)
    uniform = attention.draw((200_000,), torch.arange(200_000))
    variable = (-uniform.log()) ** (1 / 3.0) / math.gamma(1 + 1 / 3.0)
    assert variable.mean() == pytest.approx(1, abs=5e-3)
    wanted = math.gamma(1 + 2 / 3.0) / math.gamma(1 + 1 / 3.0) ** 2 - 1
    assert variable.var() == pytest.approx(wanted, rel=2e-2)
    query, context, key = a_sequence([2], 2, 8, seed=1), a_sequence([4], 6, 8), torch.tensor([9])
    asked, answering = (
        part.unflatten(-1, (2, 4)).transpose(1, 2)
        for part in (attention.query(query.values), attention.key(context.values))
    )
    scores = asked @ answering.transpose(-1, -2) / 4**0.5
    drawn = scores.exp() * (-attention.draw(scores.shape, key).log()) ** (1 / 3.0)
    drawn = drawn[..., :4] / drawn[..., :4].sum(-1, keepdim=True)
    _, (weights,) = attention(query, context, key)
    torch.testing.assert_close(weights[..., :4], drawn)


def test_without_a_key_random_attention_is_attention_with_its_prior() -> None:
    torch.manual_seed(0)
    plain, drawn = StochasticAttention(8, 2, 3.0, "none"), StochasticAttention(8, 2, 3.0, "contextual")
    number_dropouts(plain)
    query, context = a_sequence([3], 3, 8, seed=1), a_sequence([4], 4, 8)
    answers, weights = torchs(plain)(query.values, context.values, context.values, average_attn_weights=False)
    found, (own,) = plain(query, context)
    torch.testing.assert_close(found, answers)
    torch.testing.assert_close(own, weights)
    drawn.load_state_dict(plain.state_dict(), strict=False)
    prior = drawn.prior(context.values).squeeze(-1).exp()[:, None, None]
    _, (own,) = drawn(query, context)
    torch.testing.assert_close(own, weights * prior / (weights * prior).sum(-1, keepdim=True))


def test_draws_are_even_and_do_not_depend_on_padding_or_company() -> None:
    draw, other = KeyedUniform(), KeyedUniform()
    draw.salt, other.salt = 0, 1
    keys = torch.tensor([5, 6])
    wide = draw((2, 300, 300), keys)
    assert ((wide > 0) & (wide < 1)).all()
    assert wide.mean() == pytest.approx(0.5, abs=0.01)
    assert wide.var() == pytest.approx(1 / 12, abs=0.01)
    assert torch.equal(draw((2, 7, 9), keys), wide[:, :7, :9])
    assert torch.equal(draw((1, 300, 300), keys[1:]), wide[1:])
    assert not torch.equal(other((2, 7, 9), keys), wide[:, :7, :9])


def test_positions_are_sinusoids_and_the_same_for_both_streams() -> None:
    waves = encoding(torch.tensor([[0.0, 3.0, -1.0]]), 6)
    for i in range(3):
        assert waves[0, 1, i] == pytest.approx(math.sin(3 / 100 ** (i / 3)), abs=1e-6)
        assert waves[0, 1, 3 + i] == pytest.approx(math.cos(3 / 100 ** (i / 3)), abs=1e-6)
    assert not waves[0, 2].any()
    sequence = Sequence(
        torch.zeros(1, 2, 4), torch.ones(1, 2).bool(), torch.tensor([[2, -1]]), torch.tensor([[0.5, -1]])
    )
    assert places(sequence, "word").tolist() == [[2.0, -1.0]]
    assert places(sequence, "time").tolist() == [[5.0, -10.0]]


@pytest.mark.parametrize(
    "options",
    [
        *each(pooling=POOLINGS, feedforward=(True, False), self_attention=("before", "after"), blocks=(1, 3)),
        *each(positions=("word", "time")),
        {"queries": "last", "positions": "time"},
        {"queries": "last", "self_attention": "before"},
        {"queries": "last", "self_attention": "after", "blocks": 1},
    ],
)
def test_co_attention_asks_block_by_block_and_pools_both_streams(options: dict) -> None:
    def of_one(head, batch, b):
        asked, found = head.options, []

        def inward(layer, speech, text):
            return ask(layer.speech_self, speech, speech, asked), ask(layer.text_self, text, text, asked)

        for name in WORDS:
            pair = head.pairs[name]
            speech = projected(pair.speech_input, batch.speech[name], b, asked.positions)
            text = projected(pair.text_input, batch.text, b, asked.positions)
            for number in range(asked.blocks):
                layer = pair.layers[number]
                if asked.self_attention == "before":
                    speech, text = inward(layer, speech, text)
                first = -1 if asked.queries == "last" and number == asked.blocks - 1 else 0
                speech, text = (
                    ask(layer.speech, speech[first:], text, asked),
                    ask(layer.text, text[first:], speech, asked),
                )
                if asked.self_attention == "after":
                    speech, text = inward(layer, speech, text)
            found += [pooled(pair.speech_pool, speech, asked.pooling), pooled(pair.text_pool, text, asked.pooling)]
        return torch.cat(found)

    check("coattention", {**ATTENDING, "blocks": 2, **options}, of_one)


@pytest.mark.parametrize(
    "options", each(prior=("contextual", "lexicon", "none"), pooling=POOLINGS, feedforward=(True, False))
)
def test_bayesian_co_attention_asks_under_a_prior(options: dict) -> None:
    """Without a key, that is by the means of its random weights."""

    def of_one(head, batch, b):
        asked, found = head.options, []

        def prior(block, states, sequence):
            if asked.prior == "lexicon":
                return block.attention.trust * sequence.lexicon[b][sequence.mask[b]]
            return states @ block.attention.prior.weight[0] if asked.prior == "contextual" else None

        for name in WORDS:
            pair = head.pairs[name]
            speech = projected(pair.speech_input, batch.speech[name], b)
            text = projected(pair.text_input, batch.text, b)
            by_speech = ask(pair.speech, speech, text, asked, prior=prior(pair.speech, text, batch.text))
            by_text = ask(pair.text, text, speech, asked, prior=prior(pair.text, speech, batch.speech[name]))
            found += [pooled(pair.speech_pool, by_speech, asked.pooling)]
            found += [pooled(pair.text_pool, by_text, asked.pooling)]
        return torch.cat(found)

    check("bayesian-coattention", {**ATTENDING, **options}, of_one)


def test_the_last_state_and_the_largest_values_are_the_valid_ones() -> None:
    sequence = a_sequence([4, 1, 0], 6, D)
    last = last_state(sequence)
    torch.testing.assert_close(last.values[0, 0], sequence.values[0, 3])
    torch.testing.assert_close(last.values[1, 0], sequence.values[1, 0])
    assert last.mask.tolist() == [[True], [True], [False]]
    largest = masked_max(sequence.values, sequence.mask)
    torch.testing.assert_close(largest[0], sequence.values[0, :4].max(0).values)
    assert not largest[2].any()
