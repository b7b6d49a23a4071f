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


def ask(block: Block, query: Tensor, context: Tensor, focus: float = 1.0) -> Tensor:
    """A block on one utterance: (T, width) asks (N, width)."""
    theirs = torchs(block.attention)
    theirs.in_proj_weight.data[: query.shape[-1]] *= focus
    theirs.in_proj_bias.data[: query.shape[-1]] *= focus
    values = block.attention_norm(query + theirs(query[None], context[None], context[None])[0][0])
    if block.expand is None:
        return values
    return block.feedforward_norm(values + block.contract(F.gelu(block.expand(values))))


def standardised(module: nn.Module, sequence: Sequence, b: int) -> Tensor:
    """The valid states of utterance b, standardised by a module that has ``standardise``."""
    return (sequence.values[b][sequence.mask[b]] - module.standardise.mean) / module.standardise.std


def projected(module: nn.Module, sequence: Sequence, b: int) -> Tensor:
    values = module.project(standardised(module.input, sequence, b))
    if module.positions != "none":
        values = values + encoding(places(sequence, module.positions)[b][sequence.mask[b]], values.shape[-1])
    return values


def check(kind: str, options: dict, of_one: Callable[[nn.Module, Batch, int], Tensor]) -> None:
    """The head's features are those of ``of_one(head, batch, b)`` for every utterance."""
    head, batch = a_head(kind, options), a_batch(extra=2)
    expected = torch.stack([of_one(head, batch, b) for b in range(B)])
    torch.testing.assert_close(head.features(batch), expected, rtol=1e-5, atol=1e-5)


def test_attention_pool_weighs_both_streams_by_one_query() -> None:
    def of_one(head, batch, b):
        given = {**batch.speech, "text": batch.text}
        states = [head.norms[name](projected(head.streams[name], given[name], b)) for name in (*WORDS, "text")]
        whole = torch.cat(states)
        return (whole @ head.pool.score.weight[0]).softmax(0) @ whole

    check("attention-pool", {"width": 8}, of_one)


@pytest.mark.parametrize("summary", ["mean", "attention"])
def test_cls_coattention_lets_summaries_ask(summary: str) -> None:
    def summarise(pool, states):
        return (states @ pool.score.weight[0]).softmax(0) @ states if summary == "attention" else states.mean(0)

    def of_one(head, batch, b):
        text, found = projected(head.text_input, batch.text, b), []
        for name in WORDS:
            speech = projected(head.speech_inputs[name], batch.speech[name], b)
            found.append(ask(head.speech_asks[name], summarise(head.speech_summaries[name], speech)[None], text)[0])
            found.append(ask(head.text_asks[name], summarise(head.text_summary, text)[None], speech)[0])
        return torch.cat(found)

    check("cls-coattention", {"width": 8, "heads": 2, "summary": summary}, of_one)


def test_mmer_cross_crosses_twice_gates_and_takes_the_maximum() -> None:
    def of_one(head, batch, b):
        found = []
        for name in WORDS:
            cross = head.crosses[name]
            speech = projected(cross.speech_input, batch.speech[name], b)
            text = projected(cross.text_input, batch.text, b)
            heard = ask(cross.text_asks_speech, text, speech)
            back = ask(cross.text_asks_answers, text, ask(cross.speech_asks_text, speech, text))
            gated = torch.sigmoid(cross.gate(torch.cat([heard, back], 1))) * back
            found += [heard.max(0).values, gated.max(0).values, speech.mean(0)]
        return torch.cat(found)

    check("mmer-cross", {"width": 8, "heads": 2}, of_one)


@pytest.mark.parametrize("positions", ["none", "word", "time"])
def test_crossmodal_blocks_ask_the_others_input_again_and_again(positions: str) -> None:
    def of_one(head, batch, b):
        text, found = projected(head.text_input, batch.text, b), []
        for name in WORDS:
            speech = projected(head.speech_inputs[name], batch.speech[name], b)
            for crossing, own, other in ((head.speech[name], speech, text), (head.text[name], text, speech)):
                for block in crossing.blocks:
                    own = ask(block, own, other, focus=2.5)
                found.append(ask(crossing.inward, own, own).mean(0))
        return torch.cat(found)

    options = {"width": 8, "heads": 2, "blocks": 2, "focus": 2.5, "positions": positions}
    check("crossmodal-transformer", options, of_one)


def test_film_scales_and_shifts() -> None:
    def of_one(head, batch, b):
        summary, found = standardised(head.text, batch.text, b).mean(0), []
        for name in WORDS:
            film, speech = head.films[name], projected(head.speech[name], batch.speech[name], b)
            scale = film.weight[:8] @ summary + film.bias[:8]
            shift = film.weight[8:] @ summary + film.bias[8:]
            found.append(F.relu(speech + scale * speech + shift).mean(0))
        return torch.cat(found)

    check("film", {"width": 8}, of_one)


def test_experts_answer_under_a_gate() -> None:
    def of_one(head, batch, b):
        means = [standardised(head.speech[name], batch.speech[name], b).mean(0) for name in WORDS]
        means.append(standardised(head.text, batch.text, b).mean(0))
        gates = head.gate(torch.cat(means)).softmax(0)
        return sum(gate * expert(mean) for gate, expert, mean in zip(gates, head.experts, means, strict=True))

    check("moe", {"width": 8}, of_one)


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
        means.append(standardised(head.text, batch.text, b).mean(0))
        gates = head.gate(torch.cat(means)).softmax(0)
        answer = sum(gate * expert(mean) for gate, expert, mean in zip(gates, head.experts, means, strict=True))
        torch.testing.assert_close(head.features(batch)[b], answer, rtol=1e-5, atol=1e-5)


def test_aligned_words_puts_each_word_beside_itself() -> None:
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
        states = ask(head.blocks[0], states, states)
        return (states @ head.pool.score.weight[0]).softmax(0) @ states

    check("aligned-words", {"width": 8, "heads": 2}, of_one)


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


def test_co_attention_reads_out_the_last_states() -> None:
    def of_one(head, batch, b):
        found = []
        for name in WORDS:
            pair = head.pairs[name]
            speech = projected(pair.speech_input, batch.speech[name], b)
            text = projected(pair.text_input, batch.text, b)
            first, second = pair.layers
            speech, text = ask(first.speech, speech, text), ask(first.text, text, speech)
            found += [ask(second.speech, speech[-1:], text)[0], ask(second.text, text[-1:], speech)[0]]
        return torch.cat(found)

    check("coattention", {"width": 8, "heads": 2, "blocks": 2, "queries": "last", "positions": "time"}, of_one)


def test_the_last_state_and_the_largest_values_are_the_valid_ones() -> None:
    sequence = a_sequence([4, 1, 0], 6, D)
    last = last_state(sequence)
    torch.testing.assert_close(last.values[0, 0], sequence.values[0, 3])
    torch.testing.assert_close(last.values[1, 0], sequence.values[1, 0])
    assert last.mask.tolist() == [[True], [True], [False]]
    largest = masked_max(sequence.values, sequence.mask)
    torch.testing.assert_close(largest[0], sequence.values[0, :4].max(0).values)
    assert not largest[2].any()
