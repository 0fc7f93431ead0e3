"""Submodular pick against the best of all choices and against a loop of the paper's algorithm."""

import itertools
import math

import pytest
import torch

from pellucid.analysis.submodular_pick import heat_features, submodular_pick


def table(images=12, features=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, features, generator=generator)


def keep(rows, number):
    """Each row cut down to its largest entries."""
    kept = []
    for row in rows.tolist():
        best = sorted(range(len(row)), key=lambda j: -abs(row[j]))[:number]
        kept.append([abs(v) if j in best else 0.0 for j, v in enumerate(row)])
    return kept


def covered(rows, chosen):
    """Equation 3."""
    return sum(
        math.sqrt(sum(row[j] for row in rows))
        for j in range(len(rows[0]))
        if any(rows[i][j] > 0 for i in chosen)
    )


def algorithm(rows, budget):
    """Algorithm 2, as it stands, while an image still adds something."""
    chosen = []
    while len(chosen) < budget:
        gains = [
            (covered(rows, [*chosen, i]) - covered(rows, chosen), -i)
            for i in range(len(rows))
            if i not in chosen
        ]
        gain, minus = max(gains)
        if gain < 1e-9:
            break
        chosen.append(-minus)
    return chosen


@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_the_paper_and_comes_near_the_best(seed):
    rows = keep(table(seed=seed), 3)
    wanted = algorithm(rows, 3)
    found = submodular_pick(table(seed=seed), 3, features=3)
    assert found.images[: len(wanted)] == wanted
    best = max(covered(rows, chosen) for chosen in itertools.combinations(range(12), 3))
    assert covered(rows, found.images) >= (1 - 1 / math.e) * best
    whole = covered(rows, range(12))
    assert found.coverage[-1] == pytest.approx(covered(rows, found.images) / whole)
    assert found.coverage == sorted(found.coverage)


def test_the_figure_of_the_paper():
    """Figure 5: the second feature is the most important; rows 2 and 5 cover all but the first."""
    rows = torch.tensor(
        [[1.0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 1]]
    )
    found = submodular_pick(rows, 2)
    # Features 2 and 3 are worth 2 and sqrt(2), features 4 and 5 one each.
    assert found.images == [1, 4]
    assert found.new == [[1, 2], [3, 4]]


def test_when_all_is_covered_the_fullest_images_follow():
    rows = torch.tensor([[1.0, 0, 0], [2.0, 1.0, 1.0], [0, 0, 0], [2.0, 1.0, 0]])
    found = submodular_pick(rows, 10)
    assert found.images == [1, 3, 0, 2]
    assert found.coverage == pytest.approx([1.0] * 4)
    assert found.new[1:] == [[], [], []]
    nothing = submodular_pick(torch.zeros(3, 2), 2)
    assert nothing.images == [0, 1]


def test_signs_do_not_matter_and_thousands_of_images_are_quick():
    many = table(10_000, 128)
    found = submodular_pick(many, 12)
    assert len(set(found.images)) == 12
    assert found == submodular_pick(-many, 12)
    # Twelve images of five features can show sixty at most.
    assert len({j for new in found.new for j in new}) == sum(map(len, found.new)) <= 60


def test_heat_as_features():
    heat = torch.tensor([[[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, -5, 0], [0, 0, 0, 4]]])
    found = heat_features(heat, 2)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0, 0, 0.5]]))
    assert heat_features(heat, 7).shape == (1, 16)
    assert torch.equal(heat_features(-heat.abs(), 2), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="cells must be at least 1, got 0"):
        heat_features(heat, 0)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (torch.zeros(3), {}, r"table must be floating point of shape \(N, D\).*\(3,\)"),
        (torch.zeros(0, 4), {}, r"\(0, 4\)"),
        (torch.tensor([[0.0], [torch.nan]]), {}, r"table\[1\] has a value that is not finite"),
        (torch.ones(2, 2), {"budget": 0}, "budget must be at least 1, got 0"),
        (torch.ones(2, 2), {"features": 0}, "features must be at least 1, got 0"),
    ],
)
def test_wrong_input_is_named(rows, options, message):
    with pytest.raises(ValueError, match=message):
        submodular_pick(rows, **{"budget": 1, **options})
