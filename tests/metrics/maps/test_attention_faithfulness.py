"""What a change of the attention does to predictions."""

import pytest
import torch

from pellucid.metrics.maps import AttentionFaithfulness, attention_faithfulness

torch.manual_seed(0)
WEIGHT = torch.randn(3, 3)


def attentive(image, attention):
    """Class scores of pixels pooled by the mean of the heads' attention."""
    weights = attention.mean(1, keepdim=True)
    return 4 * (image * weights).sum((2, 3)) @ WEIGHT


def careless(image, attention):
    return 4 * image.mean((2, 3)) @ WEIGHT


def case(count=6, heads=2):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(count, 3, 4, 5, generator=generator)
    weights = torch.randn(count, heads, 20, generator=generator).mul(3).softmax(2)
    return image, weights.reshape(count, heads, 4, 5)


@pytest.mark.parametrize("change", ["permute", "even", "remove_strongest"])
def test_a_model_that_does_not_use_its_attention_is_not_moved(change):
    found = attention_faithfulness(careless, *case(), change=change)
    assert found.distance.tolist() == [0.0] * 6
    assert found.agreement.tolist() == [1.0] * 6
    moved = attention_faithfulness(attentive, *case(), change=change)
    assert (moved.distance > 0).all()


@pytest.mark.parametrize("change", ["even", "remove_strongest"])
def test_the_distance_agrees_with_a_loop(change):
    image, attention = case()
    found = attention_faithfulness(attentive, image, attention, change)
    for i in range(len(image)):
        other = attention[i].clone()
        for head in range(2):
            if change == "even":
                other[head] = other[head].sum() / 20
            else:
                place = int(other[head].argmax())
                whole = float(other[head].sum())
                other[head].view(-1)[place] = 0
                other[head] *= whole / float(other[head].sum())
        p = attentive(image[i : i + 1], attention[i : i + 1]).softmax(1)[0]
        q = attentive(image[i : i + 1], other[None]).softmax(1)[0]
        wanted = sum(abs(float(a) - float(b)) for a, b in zip(p, q, strict=True)) / 2
        assert float(found.distance[i]) == pytest.approx(wanted, abs=1e-5)
        assert float(found.agreement[i]) == float(p.argmax() == q.argmax())


def test_permutation_keeps_each_heads_weights_and_repeats_differ():
    image, attention = case()
    seen = []

    def spy(image, attention):
        seen.append(attention)
        return attentive(image, attention)

    first = attention_faithfulness(spy, image, attention, repeats=3)
    original, changed = seen
    assert torch.equal(original, attention)
    assert changed.shape == (18, 2, 4, 5)
    ordered = changed.flatten(2).sort(2).values.view(3, 6, 2, 20)
    torch.testing.assert_close(ordered, attention.flatten(2).sort(2).values.expand_as(ordered))
    assert not torch.equal(changed[:6], changed[6:12])
    again = attention_faithfulness(attentive, image, attention, repeats=3)
    assert torch.equal(first.distance, again.distance)
    assert not torch.equal(
        first.distance,
        attention_faithfulness(attentive, image, attention, repeats=3, seed=9).distance,
    )


def test_even_attention_cannot_be_permuted():
    image = case()[0]
    found = attention_faithfulness(attentive, image, torch.full((6, 2, 4, 5), 0.05))
    assert found.distance.max().item() < 1e-6


def test_all_weight_at_one_place_is_removed_without_a_quotient_of_zeros():
    image, attention = case()
    attention = torch.zeros_like(attention)
    attention[:, :, 1, 1] = 1
    found = attention_faithfulness(attentive, image, attention, "remove_strongest")
    assert found.distance.isfinite().all()


def test_the_class_is_the_mean_over_images():
    image, attention = case()
    metric = AttentionFaithfulness("even")
    for rows in torch.arange(6).split(4):
        metric.update(attentive, image[rows], attention[rows])
    wanted = attention_faithfulness(attentive, image, attention, "even")
    torch.testing.assert_close(metric.compute(), wanted.distance.mean())
    torch.testing.assert_close(metric.agreement(), wanted.agreement.mean())
    assert AttentionFaithfulness().compute().isnan()


def test_wrong_inputs_say_what_is_wrong():
    image, attention = case()
    with pytest.raises(ValueError, match="change must be one of permute, even"):
        attention_faithfulness(attentive, image, attention, "shuffle")
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        AttentionFaithfulness(repeats=0)
    with pytest.raises(ValueError, match=r"attention must have shape \(B=6, U, h, w\)"):
        attention_faithfulness(attentive, image, attention[:, 0])
    with pytest.raises(ValueError, match="attention has a weight below 0"):
        attention_faithfulness(attentive, image, -attention)
    with pytest.raises(ValueError, match="value that is not finite"):
        attention_faithfulness(attentive, image, attention * torch.nan)
    with pytest.raises(ValueError, match="two classes or more"):
        attention_faithfulness(lambda i, a: i[:, :1, 0, 0], image, attention)
