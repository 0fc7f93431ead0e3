import itertools
import math

import pytest
import torch

from pellucid.metrics.code_error import (
    CodeErrorHungarian,
    CodeErrorMajority,
    code_error_hungarian,
    code_error_majority,
)


def best_assignment(counts):
    """By trying every assignment of codes to labels."""
    codes, labels = counts.shape
    table = counts if codes <= labels else counts.T
    best = max(
        sum(int(table[i, j]) for i, j in enumerate(chosen))
        for chosen in itertools.permutations(range(table.shape[1]), table.shape[0])
    )
    return 1 - best / int(counts.sum())


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
def test_against_every_assignment_and_every_vote(shape):
    counts = torch.randint(0, 9, shape, generator=torch.Generator().manual_seed(sum(shape)))
    assert float(code_error_hungarian(counts)) == pytest.approx(best_assignment(counts))
    votes = sum(max(row) for row in counts.tolist())
    assert float(code_error_majority(counts)) == pytest.approx(1 - votes / int(counts.sum()))


def test_where_the_two_differ():
    # Codes 0 and 1 split one label; label 1 and 2 share a code.
    counts = torch.tensor([[5, 0, 0], [5, 0, 0], [0, 6, 4]])
    assert float(code_error_majority(counts)) == pytest.approx(4 / 20)
    assert float(code_error_hungarian(counts)) == pytest.approx(9 / 20)


def test_any_renaming_of_codes_is_no_error():
    label = torch.arange(50) % 5
    logits = torch.nn.functional.one_hot((label + 2) % 5, 5).float()
    for metric in (CodeErrorHungarian(5, 5), CodeErrorMajority(5, 5)):
        for rows in (label.split(7),):
            start = 0
            for part in rows:
                metric.update(logits[start : start + len(part)], part)
                start += len(part)
        assert metric.compute() == 0


def test_a_code_that_knows_nothing_is_wrong_for_all_but_one_label():
    metric = CodeErrorHungarian(4, 5)
    metric.update(torch.zeros(20, 4), torch.arange(20) % 5)
    assert float(metric.compute()) == pytest.approx(0.8)
    assert metric.counts.sum() == 20


def test_nothing_seen_is_nan():
    assert code_error_hungarian(torch.zeros(2, 2)).isnan()
    assert code_error_majority(torch.zeros(2, 2)).isnan()


@pytest.mark.parametrize(
    ("logits", "label", "message"),
    [
        (torch.zeros(3, 4), torch.zeros(3).long(), r"logits must have shape \(B, 3\)"),
        (torch.zeros(3, 3), torch.zeros(2).long(), r"and label \(B,\), got \(3, 3\) and \(2,\)"),
        (torch.zeros(2, 3), torch.tensor([0, 7]), r"label must be from 0 to 2, got 0 to 7"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), r"label must be from 0 to 2, got -1 to 0"),
    ],
)
def test_wrong_input(logits, label, message):
    with pytest.raises(ValueError, match=message):
        CodeErrorHungarian(3, 3).update(logits, label)


def test_the_spread_is_that_of_images_drawn_anew():
    # One in ten of 400 images are wrong, and no draw changes which code is which label's.
    label = torch.arange(400) % 2
    code = torch.where(torch.arange(400) % 10 < 1, 1 - label, label)
    wrong = float((code != label).float().mean())
    for kind in (CodeErrorHungarian, CodeErrorMajority):
        spread = []
        for options in ({"resamplings": 3000}, {}, {}, {"seed": 1}, {"resamplings": 0}):
            metric = kind(2, 2, **options)
            metric.update(torch.nn.functional.one_hot(code, 2).float(), label)
            spread.append(metric.spread())
        expected = (wrong * (1 - wrong) / 400) ** 0.5
        assert spread[0] == pytest.approx(expected, rel=0.06)
        assert spread[1] == spread[2] != spread[3]
        assert math.isnan(spread[4])
        assert float(metric.compute()) == pytest.approx(wrong)
        assert metric.sample_sizes() == {"images": 400}
    perfect = CodeErrorHungarian(2, 2)
    assert math.isnan(perfect.spread())
    perfect.update(torch.nn.functional.one_hot(label, 2).float(), label)
    assert perfect.spread() == 0
    with pytest.raises(ValueError, match="resamplings must be 0 or at least 2, got 1"):
        CodeErrorHungarian(2, 2, resamplings=1)


def test_wrong_options():
    with pytest.raises(ValueError, match=r"num_codes must be at least 2, got 1"):
        CodeErrorMajority(1, 3)


def half(logits, label):
    metric = CodeErrorHungarian(3, 3)
    rows = slice(torch.distributed.get_rank(), None, 2)
    metric.update(logits[rows], label[rows])
    return float(metric.compute()), metric.spread()


@pytest.mark.ddp
def test_two_processes_count_together(run_on_two):
    source = torch.Generator().manual_seed(0)
    logits, label = torch.randn(41, 3, generator=source), torch.arange(41) % 3
    metric = CodeErrorHungarian(3, 3)
    metric.update(logits, label)
    expected = float(metric.compute()), metric.spread()
    assert run_on_two(half, logits, label) == [pytest.approx(expected)] * 2
