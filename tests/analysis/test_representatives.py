"""Representative and surprising images of units, against loops and in cases that are plain."""

import math

import pytest
import torch

from pellucid.analysis.representatives import unit_representatives


def loop(responses, labels, strongest):
    """The definitions, one unit and one image at a time."""
    rows = [[max(0.0, v) for v in row] for row in responses.tolist()]
    units, count = len(rows[0]), len(rows)
    spread = []
    for u in range(units):
        mean = sum(row[u] for row in rows) / count
        spread.append(math.sqrt(sum((row[u] - mean) ** 2 for row in rows) / count))
    patterns = [[v / (s or 1) for v, s in zip(row, spread, strict=True)] for row in rows]
    typical, odd = [], []
    for u in range(units):
        top = sorted((row[u] for row in rows), reverse=True)[:strongest]
        limit = sum(top) / len(top) / 2
        strong = [i for i in range(count) if rows[i][u] > limit]
        centre = [sum(patterns[i][k] for i in strong) / len(strong) for k in range(units)]

        def cosine(i, centre=centre):
            dot = sum(a * b for a, b in zip(patterns[i], centre, strict=True))
            return dot / math.hypot(*patterns[i]) / math.hypot(*centre)

        best = [i for i in strong if rows[i][u] >= top[-1]]
        typical.append(sorted(best, key=lambda i: -cosine(i)))
        surprise = {}
        for i in strong:
            others = [rows[j][u] for j in range(count) if j != i and labels[j] == labels[i]]
            mean = sum(others) / len(others) if others else rows[i][u]
            if mean <= limit:
                surprise[i] = rows[i][u] - mean
        odd.append(sorted(surprise, key=lambda i: -surprise[i]))
    return typical, odd


def test_it_agrees_with_a_loop():
    generator = torch.Generator().manual_seed(0)
    responses = torch.randn(40, 5, generator=generator).exp()
    labels = torch.arange(40) % 4
    typical, odd = loop(responses, labels.tolist(), 10)
    found = unit_representatives(responses, labels, count=40)
    assert found.representative == typical
    assert found.surprising == odd
    assert any(odd)
    few = unit_representatives(responses, labels, count=2)
    assert few.representative == [each[:2] for each in typical]
    assert few.surprising == [each[:2] for each in odd]


def test_a_unit_of_one_category_is_surprised_by_another():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    responses = torch.tensor([[2.0], [2.1], [1.9], [2.0], [0], [0], [1.8], [0]])
    found = unit_representatives(responses, labels, strongest=3)
    assert found.surprising == [[6]]
    assert 6 in unit_representatives(responses, labels, count=8).representative[0]


def test_without_labels_there_are_representative_images_alone():
    responses = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).exp()
    known = unit_representatives(responses, torch.arange(40) % 4)
    found = unit_representatives(responses, None)
    assert found == (known.representative, [])


def test_the_odd_one_out_is_not_representative():
    """Unit 0 fires with unit 1, once with unit 2 instead, and then most of all."""
    responses = torch.tensor([[2.0, 2, 0], [2.1, 2, 0], [1.9, 2, 0], [2.5, 0, 2], [0, 1, 1]])
    found = unit_representatives(responses, torch.zeros(5, dtype=torch.int64), count=4)
    assert found.representative[0][-1] == 3
    assert set(found.representative[0][:3]) == {0, 1, 2}


def test_silent_units_and_lonely_images_have_none():
    responses = torch.tensor([[0.0, -1.0, 3.0], [0.0, -2.0, 0.0]])
    found = unit_representatives(responses, torch.tensor([0, 1]))
    assert found.representative == [[], [], [0]]
    # Nothing is known of a category of one image that it could contradict.
    assert found.surprising == [[], [], []]


@pytest.mark.parametrize(
    ("responses", "options", "message"),
    [
        (torch.zeros(3), {}, r"responses must be \(N, U\)"),
        (torch.zeros(4, 2), {}, r"labels \(N,\), got \(4, 2\) and \(3,\)"),
        (torch.full((3, 2), torch.nan), {}, "not finite"),
        (torch.zeros(3, 2), {"count": 0}, "count must be at least 1, got 0"),
        (torch.zeros(3, 2), {"strongest": 0}, "strongest must be at least 1, got 0"),
    ],
)
def test_wrong_input_is_named(responses, options, message):
    with pytest.raises(ValueError, match=message):
        unit_representatives(responses, torch.zeros(3, dtype=torch.int64), **options)
