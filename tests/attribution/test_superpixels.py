"""LIME and KernelSHAP: on functions whose weights are known, and against all coalitions."""

import copy
import itertools
import math
import sys

import pytest
import torch

from pellucid.attribution.kernel_shap import KernelShap, shapley_values
from pellucid.attribution.lime import Lime
from pellucid.attribution.method import TOLERANCE, NonFiniteScores
from pellucid.attribution.methods import make_method
from pellucid.attribution.superpixels import Superpixels, keep, spread
from tests.attribution.known_answers import Curved, Linear, images

METHODS = [Lime, KernelShap]


def cells(heat, side=2):
    """Sums over the cells of a grid."""
    size = heat.shape[-1] // side
    return heat.unfold(1, size, size).unfold(2, size, size).sum((3, 4)).flatten(1)


def brute_force(score, players):
    """Shapley's own formula, over all orders' coalitions, one at a time."""
    values = []
    for i in range(players):
        others, total = [j for j in range(players) if j != i], 0.0
        for size in range(players):
            share = math.factorial(size) * math.factorial(players - size - 1)
            share /= math.factorial(players)
            for coalition in itertools.combinations(others, size):
                total += share * (score({*coalition, i}) - score(set(coalition)))
        values.append(total)
    return values


def score_of(net, image, labels, target):
    """The score of the image with a coalition's regions alone."""
    net, part, known = copy.deepcopy(net).eval(), labels.tolist(), {}

    def score(coalition):
        key = frozenset(coalition)
        if key not in known:
            shown = torch.zeros_like(image)
            for y, x in itertools.product(range(8), range(8)):
                if part[y][x] in key:
                    shown[:, y, x] = image[:, y, x]
            with torch.no_grad():
                known[key] = float(net(shown[None])[0, target])
        return known[key]

    return score


def test_kernel_shap_has_the_values_of_all_coalitions():
    net, batch = Curved(), images(2)
    method = KernelShap("grid", 9)
    found = method.attribute(net, batch, torch.tensor([1, 3]))
    labels = method.superpixels.cut(batch)[0]
    assert int(labels.max()) == 8
    for one, heat, target in zip(batch, found.heat, (1, 3), strict=True):
        wanted = brute_force(score_of(net, one, labels, target), 9)
        values = [float(heat[labels == part].sum()) for part in range(9)]
        assert values == pytest.approx(wanted, abs=1e-5)
    assert float(found.completeness_error.max()) < 1e-5
    assert net.training


def test_kernel_shap_sums_to_the_difference_also_where_coalitions_are_drawn():
    net, batch = Curved(), images(2)
    exact = KernelShap("grid", 9).attribute(net, batch)
    drawn = KernelShap("grid", 9, samples=300).attribute(net, batch)
    few = KernelShap("grid", 9, samples=20).attribute(net, batch)
    whole = exact.scores.gather(1, exact.target[:, None])[:, 0]
    dark = net.eval()(torch.zeros_like(batch)).detach()
    nothing = dark.gather(1, exact.target[:, None])[:, 0]
    for found in (drawn, few):
        torch.testing.assert_close(found.heat.sum((1, 2)), (whole - nothing), atol=1e-5, rtol=1e-4)
        assert float(found.completeness_error.max()) <= TOLERANCE / 10
    far = float((few.heat - exact.heat).abs().sum())
    near = float((drawn.heat - exact.heat).abs().sum())
    assert 0 < near < far
    assert near < 0.1 * float(exact.heat.abs().sum())


def test_least_squares_of_a_sum_over_players():
    kept = torch.tensor(list(itertools.product((False, True), repeat=4))[1:-1])
    wanted = torch.tensor([1.0, -2.0, 0.5, 4.0], dtype=torch.float64)
    found = shapley_values(
        kept, torch.rand(14).double() + 0.1, kept.double() @ wanted, wanted.sum()
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("method", METHODS)
def test_a_linear_function_has_its_own_weights(method, baseline):
    net, batch = Linear(), images()
    target = torch.tensor([0, 1, 2])
    options = {"ridge": 0.0, "samples": 60} if method is Lime else {}
    found = method("grid", 4, baseline=baseline, **options).attribute(net, batch, target)
    hidden = torch.zeros_like(batch)
    if baseline == "mean":
        for y, x in itertools.product((0, 4), (0, 4)):
            part = batch[..., y : y + 4, x : x + 4]
            hidden[..., y : y + 4, x : x + 4] = part.mean((2, 3), keepdim=True)
    wanted = cells(((batch - hidden) * net.weight.detach()[target]).sum(1))
    torch.testing.assert_close(cells(found.heat), wanted, atol=1e-3, rtol=1e-3)
    assert found.heat.dtype == torch.float32
    assert (found.completeness_error is None) == (method is Lime)


def test_lime_agrees_with_ridge_regression_by_hand():
    net, batch = Curved(), images(1)
    found = cells(Lime("grid", 4, samples=40, seed=5).attribute(net, batch, torch.tensor([2])).heat)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        kept = torch.cat([torch.bernoulli(torch.full((1, 4), 0.5)) for _ in range(40)])
    score = score_of(net, batch[0], Superpixels("grid", 4, "zero").cut(batch)[0], 2)
    scores = [score({i for i in range(4) if row[i]}) for row in kept]
    rows = kept.double()
    cosine = rows.sum(1) / (rows.norm(dim=1).clamp(min=1e-12) * 2)
    weight = torch.exp(-((1 - cosine) ** 2) / (2 * 0.25**2))
    # The intercept is not penalised: both sides are centred by the weights.
    y = torch.tensor(scores, dtype=torch.float64)
    centred = rows - (weight[:, None] * rows).sum(0) / weight.sum()
    left = centred.T @ (weight[:, None] * centred) + torch.eye(4, dtype=torch.float64)
    right = centred.T @ (weight * (y - (weight * y).sum() / weight.sum()))
    wanted = torch.linalg.solve(left, right)
    torch.testing.assert_close(found[0].double(), wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_depends_on_no_other_and_on_no_state(method):
    net, batch = Curved(), images(3)
    made = method("grid", 16, samples=50)
    before = torch.get_rng_state()
    with torch.inference_mode():
        found = made.attribute(net, batch).heat
    assert torch.equal(torch.get_rng_state(), before)
    for place in range(3):
        torch.testing.assert_close(
            made.attribute(net, batch[place : place + 1]).heat[0], found[place]
        )
    other = method("grid", 16, samples=50, seed=1).attribute(net, batch).heat
    assert not torch.equal(found, other)
    assert net.layers[0].weight.grad is None


def test_slic_follows_the_colours():
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:] = 3.0
    labels = Superpixels("slic", 4, "zero").cut(image)[0]
    assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
    assert not set(labels[:, :8].flatten().tolist()) & set(labels[:, 8:].flatten().tolist())
    assert len(labels.unique()) >= 2
    grey = Superpixels("slic", 4, "zero").cut(image[:, :1])[0]
    assert grey.shape == (16, 16)


@pytest.mark.parametrize("method", METHODS)
def test_superpixels_of_any_number_are_attributed(method):
    image = images(2)
    image[0] = 1.0  # One colour: SLIC may find a single region.
    found = method("slic", 6, samples=200).attribute(Curved(), image)
    assert found.heat.shape == (2, 8, 8)
    assert found.heat.isfinite().all()


def test_regions_are_kept_and_values_spread():
    labels = torch.tensor([[0, 0], [0, 1]])
    image, hidden = torch.ones(3, 2, 2), torch.zeros(3, 2, 2)
    shown = keep(image, hidden, labels, torch.tensor([[True, False], [False, True]]))
    assert shown[0, 0].tolist() == [[1, 1], [1, 0]]
    assert shown[1, 2].tolist() == [[0, 0], [0, 1]]
    heat = spread(torch.tensor([3.0, 5.0]), labels)
    assert heat.tolist() == [[1, 1], [1, 5]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"superpixels": "felz"}, "superpixels must be one of slic, grid, got 'felz'"),
        ({"baseline": "blur"}, "baseline must be one of zero, mean, got 'blur'"),
        ({"num_superpixels": 1}, "num_superpixels must be at least 2, got 1"),
        ({"samples": 1}, "samples must be at least 2, got 1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("name", ["lime", "kernel_shap"])
def test_wrong_options_are_named(name, options, says):
    with pytest.raises(ValueError, match=says):
        make_method(name, **options)


def test_wrong_options_of_one_method_are_named():
    with pytest.raises(ValueError, match="kernel_width must be above 0, got 0"):
        Lime("grid", kernel_width=0)
    with pytest.raises(ValueError, match="ridge must be at least 0, got -1"):
        Lime("grid", ridge=-1)
    with pytest.raises(ValueError, match=r"samples must be at least 32, .* got 20"):
        KernelShap("grid", 16, samples=20).attribute(Curved(), images())
    with pytest.raises(ValueError, match=r"num_superpixels must be at most 64 .* got 100"):
        KernelShap("grid", 100).attribute(Curved(), images())
    broken = Linear()
    broken.weight.data[:] = torch.nan
    with pytest.raises(NonFiniteScores):
        KernelShap("grid", 4).attribute(broken, images())


def test_without_scikit_image_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(
        ValueError, match=r"pip install 'pellucid\[superpixels\]', or use .* 'grid'"
    ):
        make_method("lime")
    assert make_method("kernel_shap", superpixels="grid")
