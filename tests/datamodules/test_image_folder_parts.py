"""The user's own images: folders, COCO files, transforms, and every mistake named."""

import builtins
import json
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from PIL import Image, ImageDraw

from pellucid.batch import check_batch
from pellucid.datamodules import image_check
from pellucid.datamodules.base import collate
from pellucid.datamodules.coco import draw, polygon_mask
from pellucid.datamodules.errors import DataError
from pellucid.datamodules.image_folder_parts import ImageFolderParts
from pellucid.datamodules.transforms import (
    Augment,
    Sample,
    letterbox,
    mirror,
    resample,
    resize,
    upright,
)
from pellucid.part_names import mirrored_order

WIDTH, HEIGHT = 120, 80
EYES = {"left_eye": (30, 40), "right_eye": (90, 25)}
COLOURS = {"left_eye": "red", "right_eye": "blue"}


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    folder = tmp_path / "user-cache"
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_: str(folder))
    return folder


def picture(size=(WIDTH, HEIGHT), places=EYES):
    image = Image.new("RGB", size, (90, 90, 90))
    pen = ImageDraw.Draw(image)
    for name, (x, y) in places.items():
        pen.ellipse([x - 5, y - 5, x + 5, y + 5], fill=COLOURS[name])
    return image


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "images"
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        for name in ("cat", "fox"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                picture().save(root / split / name / f"{split}-{name}-{i}.png")
    return root


def paths(root):
    return sorted(str(p.relative_to(root).as_posix()) for p in root.rglob("*.png"))


def keypoint_file(root, path, **changes):
    """A COCO keypoints file of all images; ``changes`` by image path replace the numbers."""
    files = paths(root)
    numbers = [n for x, y in EYES.values() for n in (x, y, 2)]
    content = {
        "images": [
            {"id": i, "file_name": file, "width": WIDTH, "height": HEIGHT}
            for i, file in enumerate(files)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "keypoints": changes.get(file, numbers)}
            for i, file in enumerate(files)
        ],
        "categories": [{"id": 1, "name": "animal", "keypoints": list(EYES)}],
    }
    return save(path, content)


def save(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def edit(file, change):
    """Change a JSON file by a function of its content."""
    content = json.loads(Path(file).read_text())
    change(content)
    save(Path(file), content)


def spot(image, name):
    """Centre (x, y) of an eye in an image of values in [0, 255]; NaN without one."""
    channel = {"red": 0, "blue": 2}[COLOURS[name]]
    weight = (2 * image[channel].float() - image.float().sum(0) + image[channel] - 60).clamp(min=0)
    rows, columns = torch.meshgrid(*map(torch.arange, weight.shape), indexing="ij")
    return torch.stack([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


def pixels(data, item):
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    return (item["image"] * std[:, None, None] + mean[:, None, None]) * 255


def sample(places=EYES, size=(WIDTH, HEIGHT)):
    image = torch.from_numpy(np.array(picture(size, places))).permute(2, 0, 1)
    mask = torch.stack([image[0] > 200, image[2] > 200])
    return Sample(
        image=image,
        parts=torch.tensor([list(map(float, place)) for place in places.values()]),
        part_visible=torch.ones(2, dtype=torch.bool),
        part_masks=mask,
        mask=mask.any(0),
    )


def assert_on_their_spots(moved, order=tuple(EYES), atol=0.3):
    for part, name in enumerate(order):
        torch.testing.assert_close(moved.parts[part], spot(moved.image, name), atol=atol, rtol=0)
        rows, columns = moved.part_masks[part].nonzero().T
        middle = torch.stack([columns.float().mean(), rows.float().mean()])
        torch.testing.assert_close(moved.parts[part], middle, atol=0.8, rtol=0)


# Transforms


@pytest.mark.parametrize("size", [48, 120, 301])
@pytest.mark.parametrize("change", [resize, lambda s, size: letterbox(s, size, (0.5, 0.5, 0.5))])
def test_marks_stay_in_place_when_the_size_changes(change, size):
    moved = change(sample(), size)
    assert moved.image.shape == (3, size, size)
    assert moved.mask.shape == (size, size)
    assert moved.part_masks.dtype == torch.bool
    assert_on_their_spots(moved)


def test_a_change_of_size_is_exact_in_pixel_centres():
    moved = resize(Sample(image=torch.zeros(3, 10, 10, dtype=torch.uint8),
                          parts=torch.tensor([[0.0, 9.0]])), 40)  # fmt: skip
    assert moved.parts.tolist() == [[1.5, 37.5]]


def test_a_letterbox_keeps_the_aspect_ratio_and_fills_with_the_colour():
    moved = letterbox(sample(), 60, (0.2, 0.4, 0.6))
    assert moved.image[:, 0, 0].tolist() == moved.image[:, -1, -1].tolist() == [51, 102, 153]
    assert (moved.image[0, :, 2] == 90).sum() == 40  # 120 x 80 in 60 x 60: 60 x 40
    distance = moved.parts[1] - moved.parts[0]
    assert distance.tolist() == [30, -7.5]


def test_a_mirror_image_carries_marks_and_swaps_left_and_right():
    plain, order = mirror(sample()), mirrored_order(list(EYES))
    assert torch.equal(plain.image, sample().image.flip(-1))
    assert plain.parts.tolist() == [[89, 40], [29, 25]]
    assert_on_their_spots(plain)
    swapped = mirror(sample(), order)
    assert swapped.parts.tolist() == [[29, 25], [89, 40]]
    assert_on_their_spots(swapped, ("right_eye", "left_eye"))


def test_names_that_change_places_in_a_mirror():
    assert mirrored_order(["left_eye", "nose", "right_eye"]) == [2, 1, 0]
    assert mirrored_order(["RightWing", "Wing left", "LeftWing"]) == [2, 1, 0]
    assert mirrored_order(["bright spot", "left foot"]) == [0, 1]
    assert mirrored_order([]) == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_agrees_with_pillow(orientation):
    from PIL import ImageOps

    stored = picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.info["exif"] = exif.tobytes()
    expected = np.array(ImageOps.exif_transpose(stored))
    moved = upright(sample(), orientation)
    assert np.array_equal(moved.image.permute(1, 2, 0).numpy(), expected)
    assert_on_their_spots(moved)


def test_random_versions_keep_marks_in_place():
    augment, seen, mirrored = Augment(100, list(EYES)), 0, 0
    torch.manual_seed(0)
    for _ in range(40):
        moved = augment(sample())
        assert moved.image.shape == (3, 100, 100)
        inside = ((moved.parts > 12) & (moved.parts < 87)).all()
        if not inside:
            continue
        order = tuple(EYES)
        if moved.parts[0, 1] < moved.parts[1, 1]:  # the lower eye is the left one unless mirrored
            order, mirrored = order[::-1], mirrored + 1
        assert_on_their_spots(moved, order, atol=1)
        seen += 1
    assert seen > 8
    assert 0 < mirrored < seen


def test_other_transforms_may_be_used():
    from torchvision.transforms import v2

    moved = resample(sample(), v2.Pad([3, 5, 0, 0]))
    assert moved.parts.tolist() == [[33, 45], [93, 30]]
    assert_on_their_spots(moved)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"crop_area": 0.0}, r"crop_area must be in \(0, 1\], got 0.0"),
        ({"jitter": 1.0}, r"jitter must be in \[0, 1\), got 1.0"),
        ({"mirror_probability": -0.5}, r"mirror_probability must be in \[0, 1\], got -0.5"),
    ],
)
def test_arguments_of_the_augmentation_are_checked(arguments, said):
    with pytest.raises(ValueError, match=said):
        Augment(32, **arguments)


# The data module


def test_folders_alone_give_images_and_labels(root):
    data = ImageFolderParts(str(root), image_size=48, batch_size=4)
    assert data.class_names == ("cat", "fox")
    assert data.part_names == ()
    assert data.provides == {"image", "label", "index"}
    lengths = {split: len(data.dataset(split)) for split in ("train", "val", "test", "all")}
    assert lengths == {"train": 6, "val": 2, "test": 2, "all": 10}
    every = data.dataset("all")
    assert [int(every[i]["label"]) for i in range(10)] == [0, 0, 0, 1, 1, 1, 0, 1, 0, 1]
    check_batch(next(iter(data.train_dataloader())), data.provides)


def test_landmarks_of_a_coco_file(root, tmp_path):
    file = "train/fox/train-fox-0.png"
    coco = keypoint_file(root, tmp_path / "k.json", **{file: [30, 40, 1, 0, 0, 0]})
    data = ImageFolderParts(str(root), coco, image_size=64)
    assert data.part_names == ("left_eye", "right_eye")
    assert data.provides == {"image", "label", "index", "parts", "part_visible"}
    train = data.dataset("train")
    for i in range(6):
        item = train[i]
        assert item["part_visible"].tolist() == ([True, False] if i == 3 else [True, True])
        for part, name in enumerate(EYES):
            if item["part_visible"][part]:
                found = spot(pixels(data, item), name)
                torch.testing.assert_close(item["parts"][part], found, atol=0.4, rtol=0)
    assert train[3]["parts"][1].tolist() == [0, 0]
    check_batch(collate([train[i] for i in range(6)]), data.provides)


def test_a_name_alone_joins_where_it_is_the_only_one(root, tmp_path):
    coco = keypoint_file(root, tmp_path / "k.json")

    def shorten(content):
        for image in content["images"]:
            image["file_name"] = image["file_name"].split("/")[-1]
        content["images"].append({"id": 99, "file_name": "of-another-folder.png"})

    edit(coco, shorten)
    item = ImageFolderParts(str(root), coco).dataset("val")[1]
    assert item["part_visible"].all()


def test_images_without_annotation_have_no_visible_part(root, tmp_path):
    coco = keypoint_file(root, tmp_path / "k.json")
    edit(coco, lambda content: content.update(annotations=content["annotations"][:1]))
    every = ImageFolderParts(str(root), coco, image_size=32).dataset("all")
    assert sum(bool(every[i]["part_visible"].any()) for i in range(10)) == 1


def test_a_part_that_two_instances_show_is_not_visible(root, tmp_path):
    coco = keypoint_file(root, tmp_path / "k.json")
    second = {"id": 50, "image_id": 0, "category_id": 1, "keypoints": [0, 0, 0, 5, 5, 2]}
    edit(coco, lambda content: content["annotations"].append(second))
    data = ImageFolderParts(str(root), coco, image_size=32)
    first = data.dataset("test")[0]  # "test/cat/..." is the first path
    assert first["part_visible"].tolist() == [True, False]


def test_part_names_of_several_categories_are_joined(root, tmp_path):
    coco = keypoint_file(root, tmp_path / "k.json")

    def split(content):
        content["categories"].append({"id": 2, "name": "fish", "keypoints": ["right_eye", "fin"]})
        content["annotations"][0] |= {"category_id": 2, "keypoints": [90, 25, 2, 7, 7, 2]}

    edit(coco, split)
    data = ImageFolderParts(str(root), coco, image_size=120)
    assert data.part_names == ("left_eye", "right_eye", "fin")
    item = data.dataset("test")[0]
    assert item["part_visible"].tolist() == [False, True, True]
    assert item["parts"][2].tolist() == [7, 27]


def segmentation_file(root, path, segments):
    """``segments``: (category name, segmentation), all in the first training image."""
    names = list(dict.fromkeys(name for name, _ in segments))
    content = {
        "images": [{"id": 1, "file_name": "train/cat/train-cat-0.png"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": names.index(name), "segmentation": segment}
            for i, (name, segment) in enumerate(segments)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
    }
    return save(path, content)


SQUARE = [[10, 20, 40, 20, 40, 60, 10, 60]]  # columns 10 to 39, rows 20 to 59


def square():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:60, 10:40] = True
    return mask


def codes():
    from pycocotools import mask as coder

    code = coder.encode(np.asfortranarray(square().astype(np.uint8)))
    runs = np.flatnonzero(np.diff(np.r_[0, square().T.ravel(), 0]))
    counts = np.diff(np.r_[0, runs, WIDTH * HEIGHT]).tolist()
    return {
        "polygon": SQUARE,
        "compressed": {"size": code["size"], "counts": code["counts"].decode()},
        "uncompressed": {"size": [HEIGHT, WIDTH], "counts": counts},
    }


# pycocotools' own arrays do not know NumPy 2's arguments yet.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("kind", ["polygon", "compressed", "uncompressed"])
def test_masks_of_polygons_and_run_length_codes(root, tmp_path, kind):
    segment = codes()[kind]
    assert np.array_equal(draw(segment, WIDTH, HEIGHT), square())
    coco = segmentation_file(root, tmp_path / "s.json", [("animal", segment)])
    data = ImageFolderParts(str(root), segmentations=coco, image_size=120)
    assert data.provides == {"image", "label", "index", "mask"}
    every = data.dataset("train")
    expected = torch.zeros(120, 120, dtype=torch.bool)
    expected[20:100] = torch.from_numpy(square())  # the letterbox of 120 x 80 has bars of 20
    assert torch.equal(every[0]["mask"], expected)
    assert not every[1]["mask"].any()
    check_batch(collate([every[0], every[1]]), data.provides)


def test_a_segmentation_named_like_a_part_is_its_mask(root, tmp_path):
    keypoints = keypoint_file(root, tmp_path / "k.json")
    segments = [("right_eye", SQUARE), ("fox", SQUARE), ("fox", [[50, 0, 60, 0, 60, 80, 50, 80]])]
    masks = segmentation_file(root, tmp_path / "s.json", segments)
    data = ImageFolderParts(str(root), keypoints, masks, image_size=120)
    assert data.provides == ImageFolderParts.provides - {"attention"}
    item = data.dataset("train")[0]
    assert item["part_masks"].sum((1, 2)).tolist() == [0, 1200]
    assert item["mask"].sum() == 1200 + 800
    only_parts = segmentation_file(root, tmp_path / "s.json", segments[:1])
    assert "mask" not in ImageFolderParts(str(root), keypoints, only_parts).provides


def test_polygons_hold_the_pixels_whose_centres_are_inside():
    from matplotlib.path import Path as Outline

    generator = np.random.default_rng(0)
    columns, rows = np.meshgrid(np.arange(30) + 0.5, np.arange(20) + 0.5)
    centres = np.column_stack([columns.ravel(), rows.ravel()])
    for corner_count in (3, 4, 6):
        angles = np.sort(generator.uniform(0, 2 * np.pi, corner_count))
        reach = generator.uniform(4, 18, corner_count)
        corners = np.column_stack([15 + reach * np.cos(angles), 10 + reach * np.sin(angles)])
        expected = Outline(corners).contains_points(centres).reshape(20, 30)
        assert np.array_equal(polygon_mask(corners, 30, 20), expected)


def test_augmented_images_change_with_the_epoch_and_keep_their_landmarks(root, tmp_path):
    data = ImageFolderParts(
        str(root), keypoint_file(root, tmp_path / "k.json"), image_size=100, augment=True
    )
    assert data.augments
    train, compared = data.dataset("train"), 0
    for position in range(30):
        item = train[position]
        if not (item["part_visible"].all() and ((item["parts"] > 9) & (item["parts"] < 90)).all()):
            continue
        # An eye that was mirrored is named by the side it is on then, so left is never lower
        # for both names: look up the nearer spot of the two.
        left, right = item["parts"]
        names = list(EYES) if left[1] > right[1] else list(EYES)[::-1]
        for part, name in zip((left, right), names, strict=True):
            torch.testing.assert_close(part, spot(pixels(data, item), name), atol=1, rtol=0)
        compared += 1
    assert compared > 5
    assert not torch.equal(train[0]["image"], train[6]["image"])
    assert torch.equal(train[7]["image"], train[7]["image"])


def test_a_landmark_that_a_crop_leaves_out_is_not_visible(root, tmp_path):
    edges = [1, 40, 2, WIDTH - 2, 25, 2]
    coco = keypoint_file(root, tmp_path / "k.json", **dict.fromkeys(paths(root), edges))
    train = ImageFolderParts(str(root), coco, image_size=50, augment=True).dataset("train")
    items = [train[position] for position in range(30)]
    visible = torch.stack([item["part_visible"] for item in items])
    places = torch.stack([item["parts"] for item in items])
    assert 0 < visible.sum() < visible.numel()
    assert (places[~visible] == 0).all()
    assert ((places >= -0.5) & (places < 49.5)).all()


KINDS = {
    "grey": lambda image: image.convert("L"),
    "palette": lambda image: image.convert("P"),
    "cmyk": lambda image: image.convert("CMYK"),
    "black and white": lambda image: image.convert("1"),
    "transparent": lambda image: image.convert("RGBA"),
    "sixteen bits": lambda image: Image.fromarray(
        np.asarray(image.convert("L")).astype(np.uint16) * 257
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_all_kinds_are_read(root, kind):
    suffix = ".tif" if kind == "cmyk" else ".png"
    KINDS[kind](picture()).save(root / "val" / "cat" / f"a{suffix}")
    data = ImageFolderParts(str(root), image_size=120)
    item, reference = data.dataset("val")[0], data.dataset("val")[1]
    assert item["image"].shape == (3, 120, 120)
    tolerance = 60 if kind == "black and white" else 3
    difference = (pixels(data, item) - pixels(data, reference)).mean((1, 2)).abs()
    assert difference.max() < tolerance


def test_transparent_pixels_become_white(root):
    image = Image.new("RGBA", (50, 50), (0, 0, 0, 0))
    image.save(root / "val" / "cat" / "a.png")
    data = ImageFolderParts(str(root), image_size=10)
    torch.testing.assert_close(pixels(data, data.dataset("val")[0]), torch.full((3, 10, 10), 255.0))


@pytest.mark.parametrize("stated", ["stored", "upright", "nothing"])
def test_a_rotated_photograph_and_its_annotations_are_turned_upright(root, tmp_path, stated):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 120 x 80, shown 80 x 120, a quarter turn clockwise
    for path in paths(root):
        picture().save(root / path, exif=exif)
    coco = keypoint_file(root, tmp_path / "k.json")

    def restate(content):
        for image, annotation in zip(content["images"], content["annotations"], strict=True):
            if stated == "nothing":
                del image["width"], image["height"]
            if stated == "upright":
                image |= {"width": HEIGHT, "height": WIDTH}
                x, y, _, u, v, _ = annotation["keypoints"]
                annotation["keypoints"] = [HEIGHT - 1 - y, x, 2, HEIGHT - 1 - v, u, 2]

    edit(coco, restate)
    data = ImageFolderParts(str(root), coco, image_size=120)
    item = data.dataset("test")[0]
    assert item["part_visible"].all()
    torch.testing.assert_close(item["parts"], torch.tensor([[20 + 39.0, 30], [20 + 54, 90]]))
    for part, name in enumerate(EYES):
        found = spot(pixels(data, item), name)
        torch.testing.assert_close(item["parts"][part], found, atol=0.3, rtol=0)


def test_a_users_image_is_prepared_like_a_test_image(root):
    data = ImageFolderParts(str(root), image_size=64)
    with Image.open(root / "test" / "fox" / "test-fox-0.png") as image:
        assert torch.equal(data.transform_image(image), data.dataset("test")[1]["image"])


# The check of the images


def test_images_are_checked_once_and_again_when_they_change(root, monkeypatch):
    seen, inspect = [], image_check._inspect
    monkeypatch.setattr(image_check, "_inspect", lambda p: (seen.append(p.name), inspect(p))[1])

    def start():
        seen.clear()
        ImageFolderParts(str(root)).prepare_data()
        return sorted(seen)

    assert len(start()) == 10
    assert start() == []
    changed = root / "val" / "fox" / "val-fox-0.png"
    picture((50, 60), {}).save(changed)
    assert start() == ["val-fox-0.png"]
    (record,) = (root.parent / "user-cache" / "checked_images").iterdir()
    record.write_text("{broken")
    assert len(start()) == 10


def test_without_a_place_for_its_record_the_check_still_works(root, user_cache):
    user_cache.write_text("a file, not a folder")
    ImageFolderParts(str(root)).prepare_data()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_broken_image_is_named(root, suffix):
    path = root / "train" / "fox" / f"half{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    data = ImageFolderParts(str(root))
    with pytest.raises(DataError, match=rf"cannot read image .*train/fox/half{suffix} \(.*replace"):
        data.prepare_data()
    (root / "train" / "fox" / "none.png").write_text("no image")
    with pytest.raises(DataError, match=r"half.* and 1 more"):
        ImageFolderParts(str(root)).dataset("test")


# What goes wrong


def test_wrong_folders_are_named(root, tmp_path):
    def refuses(said):
        with pytest.raises(DataError, match=said) as caught:
            ImageFolderParts(str(root))
        assert "\n" not in str(caught.value)

    with pytest.raises(DataError, match=r"root .*nowhere is missing"):
        ImageFolderParts(str(tmp_path / "nowhere"))
    (root / "val" / "dog").mkdir()
    refuses(r"class 'dog' has no folder .*train/dog; every class")
    (root / "val" / "dog").rmdir()
    image = root / "val" / "fox" / "val-fox-0.png"
    image.rename(root / "val" / "fox" / "notes.txt")
    refuses(r"folder .*val/fox holds no image")
    (root / "val" / "fox" / "notes.txt").unlink()
    (root / "val" / "fox").rmdir()
    refuses(r"class 'fox' has no folder .*val/fox")
    (root / "val").rename(root / "validation")
    refuses(r"folder .*images/val is missing; root must hold train, val and test")


def test_a_single_class_is_refused(root):
    for split in ("train", "val", "test"):
        for path in (root / split / "fox").iterdir():
            path.unlink()
        (root / split / "fox").rmdir()
    with pytest.raises(DataError, match="1 class folders per split, at least 2"):
        ImageFolderParts(str(root))


FIRST = "test/cat/test-cat-0.png"
MISTAKES = {
    "landmark right of the image": (
        lambda c: c["annotations"][0].update(keypoints=[WIDTH, 40, 2, 1, 1, 2]),
        rf"landmark 'left_eye' of .*{FIRST} is at \(120, 40\), outside .* 120 x 80",
    ),
    "landmark above the image": (
        lambda c: c["annotations"][0].update(keypoints=[3, 4, 2, 1, -3, 2]),
        rf"landmark 'right_eye' of .*{FIRST} is at \(1, -3\)",
    ),
    "image of another size": (
        lambda c: c["images"][0].update(width=300),
        rf"annotations of .*{FIRST} are of an image of \(300, 80\) .* has \(120, 80\)",
    ),
    "wrong count of numbers": (
        lambda c: c["annotations"][0].update(keypoints=[1, 2, 2]),
        rf"annotation 0 in .*k.json, of {FIRST}, has 3 keypoint numbers, not 3 x 2",
    ),
    "unknown image": (lambda c: c["annotations"][0].update(image_id=77), "unknown image_id 77"),
    "unknown category": (
        lambda c: c["annotations"][0].update(category_id=7),
        rf"of {FIRST}, has an unknown category_id 7",
    ),
    "no keypoints": (lambda c: c["categories"][0].pop("keypoints"), "no category in .*k.json has"),
    "no categories": (lambda c: c.pop("categories"), "k.json is not a COCO annotation file"),
    "no list": (lambda c: c.update(images=3), "k.json is not a COCO annotation file"),
    "image twice": (
        lambda c: c["images"].append({"id": 88, "file_name": FIRST}),
        rf"k.json has {FIRST} twice",
    ),
    "other images": (
        lambda c: [image.update(file_name="x.png") for image in c["images"]],
        "none of the 10 images of .*k.json is in the image folder",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_annotations_are_named_before_training(root, tmp_path, mistake):
    change, said = MISTAKES[mistake]
    coco = keypoint_file(root, tmp_path / "k.json")
    edit(coco, change)
    with pytest.raises(DataError, match=said):
        ImageFolderParts(str(root), coco).prepare_data()


def test_annotation_files_that_are_missing_or_no_json_are_named(root, tmp_path):
    with pytest.raises(DataError, match=r"annotation file .*none.json is missing"):
        ImageFolderParts(str(root), str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot read .*bad.json as JSON"):
        ImageFolderParts(str(root), segmentations=str(tmp_path / "bad.json"))


def test_a_name_of_several_images_is_refused(root, tmp_path):
    for split in ("train", "val"):
        next((root / split / "cat").iterdir()).rename(root / split / "cat" / "same.png")
    coco = keypoint_file(root, tmp_path / "k.json")
    edit(coco, lambda c: c["images"][1].update(file_name="same.png"))
    with pytest.raises(DataError, match=r"'same.png' of .* may be any of train/cat/same.png, val"):
        ImageFolderParts(str(root), coco)


@pytest.mark.parametrize(
    ("segment", "said"),
    [
        ([[1, 2, 3, 4]], "annotation 0 in .*has a polygon that is not a list of 3 or more"),
        ({"counts": [1]}, "run-length code without size or counts"),
        ({"size": [5, 5], "counts": [5, 20]}, r"run-length code of .*train-cat-0.png is of \[5, 5"),
    ],
)
def test_wrong_segmentations_are_named(root, tmp_path, segment, said):
    coco = segmentation_file(root, tmp_path / "s.json", [("animal", segment)])
    with pytest.raises(DataError, match=said):
        ImageFolderParts(str(root), segmentations=coco).prepare_data()


def test_run_length_codes_without_pycocotools_name_the_extra(root, tmp_path, monkeypatch):
    coco = segmentation_file(root, tmp_path / "s.json", [("animal", codes()["compressed"])])
    original = builtins.__import__

    def without(name, *arguments, **named):
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return original(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pip install 'pellucid\[coco\]'"):
        ImageFolderParts(str(root), segmentations=coco)
    polygons = segmentation_file(root, tmp_path / "s.json", [("animal", SQUARE)])
    assert "mask" in ImageFolderParts(str(root), segmentations=polygons).provides


# Where people looked.


def attention_folder(folder, files):
    """A small map of each image: bright in its left upper quarter, half as bright beside it."""
    values = np.zeros((8, 12), np.uint8)
    values[:4, :6], values[:4, 6:] = 200, 100
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(folder / file)
    return str(folder)


def test_attention_maps_lie_on_their_images(root, tmp_path):
    files = paths(root)
    assert "attention" not in ImageFolderParts(str(root)).provides
    maps = attention_folder(tmp_path / "maps", files[1:])
    data = ImageFolderParts(str(root), attention_maps=maps, image_size=120)
    assert "attention" in data.provides
    dataset = data.make_dataset("all")
    items = {file: dataset[i] for i, (file, _) in enumerate(data._files["all"])}
    check_batch(collate(list(items.values())), data.provides)
    assert (items[files[0]]["attention"] == 0).all()  # Nobody was asked.
    seen = items[files[1]]["attention"]
    # 120 x 80 pixels between bars of 20.
    assert seen.shape == (120, 120)
    assert (seen[:20] == 0).all()
    assert (seen[20:54, :54] == 200).all()
    assert (seen[20:54, 66:] == 100).all()
    assert (seen[66:] == 0).all()


def test_attention_maps_are_turned_mirrored_and_cropped_with_their_images():
    image = torch.zeros(3, 60, 90, dtype=torch.uint8)
    image[0, 10:30, 20:50] = 200
    whole = Sample(image=image, attention=image[0].float())
    torch.manual_seed(0)
    for moved in (upright(whole, 6), mirror(whole), Augment(64, jitter=0.0)(whole)):
        shown, seen = moved.image[0].float(), moved.attention
        assert seen.shape == shown.shape
        assert ((seen > 100) != (shown > 100)).float().mean() < 0.03
        assert (seen > 100).any()


def test_wrong_attention_maps_are_named(root, tmp_path):
    with pytest.raises(DataError, match=r"attention_maps .*nowhere is missing"):
        ImageFolderParts(str(root), attention_maps=str(tmp_path / "nowhere"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"no map of any image; that of .*would be .*\.png"):
        ImageFolderParts(str(root), attention_maps=str(empty))
    files = paths(root)
    data = ImageFolderParts(str(root), attention_maps=attention_folder(tmp_path / "maps", files))
    picture().save(tmp_path / "maps" / data._files["test"][0][0])
    with pytest.raises(DataError, match="has the colours RGB; save it in grey"):
        data.make_dataset("test")[0]
    (tmp_path / "maps" / data._files["test"][0][0]).write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot read attention map"):
        data.make_dataset("test")[0]
