"""Images before another background, by loops."""

import pytest
import torch

from pellucid.losses.background_exchange import exchange_background


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, 2, 4, 5, generator=generator)
    return image, torch.rand(3, 4, 5, generator=generator) > 0.4


def test_what_is_irrelevant_comes_from_the_next_image_without_its_object() -> None:
    image, irrelevant = examples()
    found = exchange_background(image, irrelevant)
    for number in range(3):
        other = (number + 1) % 3
        for row in range(4):
            colour = image[other, :, row, irrelevant[other, row]].mean(1)
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
