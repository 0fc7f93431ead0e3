"""Part templates against the paper's formula, element by element."""

import pytest
import torch

from pellucid.models.layers.part_template import PartTemplate, peak_cells, positive_templates


def test_peak_is_row_and_column_of_the_maximum() -> None:
    maps = torch.zeros(2, 3, 4, 6)
    maps[1, 2, 3, 5] = 1
    maps[0, 1, 2, 0] = 1
    peaks = peak_cells(maps)
    assert peaks[1, 2].tolist() == [3, 5]
    assert peaks[0, 1].tolist() == [2, 0]


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_masking_is_the_papers(beta: float) -> None:
    n = 7
    maps = torch.rand(3, 2, n, n)
    masked = PartTemplate(beta)(maps)
    for b in range(3):
        for u in range(2):
            peak = int(maps[b, u].argmax())
            for i in range(n):
                for j in range(n):
                    t = max(1 - beta * (abs(i - peak // n) + abs(j - peak % n)) / n, -1)
                    wanted = max(float(maps[b, u, i, j]) * t, 0)
                    assert masked[b, u, i, j].item() == pytest.approx(wanted, abs=1e-6)


def test_oblong_maps_divide_each_axis_by_its_own_length() -> None:
    template = positive_templates(torch.tensor([0, 0]), 4, 8, beta=2.0)
    assert template[2, 0].item() == pytest.approx(1 - 2 * 2 / 4)
    assert template[0, 4].item() == pytest.approx(1 - 2 * 4 / 8)


def test_gradient_flows_through_the_mask_only() -> None:
    maps = torch.rand(1, 1, 5, 5, dtype=torch.float64)
    maps[0, 0, 2, 2] = 2  # a clear peak, so that finite differences do not move it
    maps.requires_grad_()
    assert torch.autograd.gradcheck(PartTemplate(), maps)


def test_half_precision_and_silence() -> None:
    assert PartTemplate()(torch.rand(1, 2, 4, 4).bfloat16()).dtype == torch.bfloat16
    assert (PartTemplate()(torch.zeros(1, 2, 4, 4)) == 0).all()


def test_wrong_beta() -> None:
    with pytest.raises(ValueError, match=r"beta must be greater than 0, got -1"):
        PartTemplate(-1)
