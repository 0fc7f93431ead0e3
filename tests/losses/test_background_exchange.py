"""Images before another background, by loops."""

import pytest
import torch

from pellucid.losses.background_exchange import exchange_background


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, 2, 4, 5, generator=generator)
    return image, torch.rand(3, 4, 5, generator=generator) > 0.8


def widened(irrelevant: torch.Tensor) -> torch.Tensor:
    """What is irrelevant, and the pixels beside it."""
    wide = torch.zeros_like(irrelevant)
    for number, row, column in irrelevant.nonzero().tolist():
        wide[number, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = True
    return wide


def test_what_is_irrelevant_comes_from_the_next_image_without_its_object() -> None:
    image, irrelevant = examples()
    found = exchange_background(image, irrelevant)
    irrelevant = widened(irrelevant)
    assert 0.3 < float(irrelevant.float().mean()) < 0.9
    for number in range(3):
        other = (number + 1) % 3
        for row in range(4):
            behind = image[other, :, row, irrelevant[other, row]]
            colour = behind.mean(1) if behind.numel() else torch.zeros(2)
            for column in range(5):
                wanted = image[number, :, row, column]
                if irrelevant[number, row, column]:
                    seen = irrelevant[other, row, column]
                    wanted = image[other, :, row, column] if seen else colour
                torch.testing.assert_close(found[number, :, row, column], wanted)


def test_images_without_annotation_stay_and_give_nothing() -> None:
    image, irrelevant = examples()
    irrelevant[1] = False
    found = exchange_background(image, irrelevant)
    assert torch.equal(found[1], image[1])
    assert torch.equal(found[0], image[0])
    assert not torch.equal(found[2], image[2])


def test_a_mask_of_another_size_is_refused() -> None:
    image, irrelevant = examples()
    with pytest.raises(ValueError, match=r"irrelevant must have shape .* \(3, 4, 5\)"):
        exchange_background(image, irrelevant[:, :3])
