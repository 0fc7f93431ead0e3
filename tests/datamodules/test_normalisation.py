"""Data modules that normalise as pretrained weights want, before and after they have made data."""

import pytest
import torch
from PIL import Image

from pellucid.datamodules.image_folder_parts import ImageFolderParts
from pellucid.datamodules.mnist import MNIST
from pellucid.datamodules.synthetic_parts import SyntheticParts
from tests.datamodules import test_mnist
from tests.helpers import write_photos

root = test_mnist.root
MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)


def column(values):
    return torch.tensor(values)[:, None, None]


def modules(folder, mnist):
    return [
        SyntheticParts(test_size=2),
        ImageFolderParts(str(write_photos(folder / "photos")), image_size=32),
        MNIST(str(mnist), channels=3),
    ]


@pytest.mark.parametrize("number", range(3))
def test_images_are_normalised_as_told(number, tmp_path, root):
    data = modules(tmp_path, root)[number]
    picture = Image.new("RGB", (32, 32), (255, 0, 51))
    before, own = data.dataset("test")[0]["image"], data.transform_image(picture)
    pixels = [image * column(data.std) + column(data.mean) for image in (before, own)]
    data.use_normalisation(MEAN, STD)
    assert (data.mean, data.std) == (MEAN, STD)
    after = [data.dataset("test")[0]["image"], data.transform_image(picture)]
    middle = slice(12, 20)  # Beside a photograph there are bars of the mean colour, whatever it is.
    for image, values in zip(after, pixels, strict=True):
        expected = (values - column(MEAN)) / column(STD)
        torch.testing.assert_close(image[:, middle], expected[:, middle])
    # Another one of its class has its own still.
    assert modules(tmp_path / "more", root)[number].mean != MEAN


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5,)), (MEAN, (0.5, 0.0, 0.5)), (MEAN, ())])
def test_values_that_fit_no_image_are_refused(mean, std):
    with pytest.raises(ValueError, match="must have 3 values and std be above 0, got"):
        SyntheticParts(test_size=1).use_normalisation(mean, std)
