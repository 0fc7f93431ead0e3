"""Attention modules and networks of Wang et al. 2017: their mathematics, and the paper's table."""

import math

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from pellucid.models.layers.residual_attention import (
    AttentionModule,
    ResidualUnit,
    SoftMask,
    mask_activation,
)
from pellucid.models.residual_attention_network import ResidualAttentionNetwork

SMALL = {"modules": (1, 2), "units": (1, 2), "width": 4, "stem": "small"}


def network(**options):
    torch.manual_seed(0)
    return ResidualAttentionNetwork(3, **(SMALL | options)).eval()


def by_hand(logits, kind):
    """Table 1 of the paper, one value at a time."""
    result = torch.empty_like(logits)
    for b, c, y, x in torch.cartesian_prod(*map(torch.arange, logits.shape)).tolist():
        value = float(logits[b, c, y, x])
        if kind == "channel":
            norm = math.sqrt(sum(float(other) ** 2 for other in logits[b, :, y, x]))
            result[b, c, y, x] = value / norm
            continue
        if kind == "spatial":
            here = [float(other) for other in logits[b, c].flatten()]
            mean = sum(here) / len(here)
            deviation = math.sqrt(sum((other - mean) ** 2 for other in here) / len(here) + 1e-5)
            value = (value - mean) / deviation
        result[b, c, y, x] = 1 / (1 + math.exp(-value))
    return result


@pytest.mark.parametrize("kind", ["mixed", "channel", "spatial"])
def test_mask_activations_by_hand(kind):
    logits = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mask_activation(logits, kind), by_hand(logits, kind))


def test_mask_activations_where_there_is_nothing_to_normalise():
    """Constant maps, maps of one position, and zeros at all channels."""
    for logits in (torch.full((1, 2, 3, 3), 7.0), torch.randn(1, 2, 1, 1)):
        spatial = mask_activation(logits, "spatial")
        torch.testing.assert_close(spatial, torch.full_like(logits, 0.5))
    assert mask_activation(torch.zeros(1, 2, 3, 3), "channel").eq(0).all()


def test_a_residual_unit_is_the_identity_plus_its_convolutions():
    unit, features = ResidualUnit(8, 8).eval(), torch.randn(2, 8, 5, 5)
    nn.init.zeros_(unit.convolve[-1].weight)
    torch.testing.assert_close(unit(features), features)
    assert ResidualUnit(8, 16, stride=2)(features).shape == (2, 16, 3, 3)


@pytest.mark.parametrize("size", [(16, 16), (7, 10), (1, 3)])
def test_a_mask_has_the_size_of_its_input(size):
    mask = SoftMask(8, depth=3, units=1, activation="mixed").eval()
    features = torch.randn(2, 8, *size)
    assert mask(features).shape == features.shape
    assert 0 <= mask(features).min() <= mask(features).max() <= 1


def test_a_mask_goes_down_and_up_with_sums_on_the_way():
    """Without residual units, what is left are poolings, interpolations and skip connections."""
    branch = SoftMask(4, depth=2, units=0, activation="mixed").eval()
    branch.out = nn.Identity()
    features = torch.randn(1, 4, 8, 8)
    once = nn.functional.max_pool2d(features, 3, 2, 1)
    twice = nn.functional.max_pool2d(once, 3, 2, 1)

    def enlarge(maps):
        return nn.functional.interpolate(maps, scale_factor=2, mode="bilinear")

    expected = enlarge(enlarge(twice) + once).sigmoid()
    torch.testing.assert_close(branch(features), expected)


@pytest.mark.parametrize("learning", ["residual", "naive"])
def test_the_mask_weights_the_trunk(learning):
    module = AttentionModule(8, depth=1, outer_units=0, learning=learning).eval()
    features = torch.randn(2, 8, 6, 6)
    output, mask = module(features)
    weight = mask + 1 if learning == "residual" else mask
    torch.testing.assert_close(output, weight * module.trunk(features))


def measure(size, **options):
    """Output sizes, parameters and multiplications, without computing anything."""
    with torch.device("meta"):
        model = ResidualAttentionNetwork(**options).eval()
        sizes, multiplications = [], 0

        def count(layer, inputs, output):
            nonlocal multiplications
            positions = output.shape[2:].numel() if output.ndim == 4 else 1
            multiplications += layer.weight.numel() * positions

        def remember(layer, inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            sizes.append(output.shape[-1])

        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        rows = [model.stem[0], model.stem]
        for stage in model.stages:
            first, *others, _ = stage
            rows += [first, *others]
        for row in rows:
            row.register_forward_hook(remember)
        model(torch.empty(1, 3, size, size))
    return sizes, sum(p.numel() for p in model.parameters()), multiplications, model.trunk_depth


@pytest.mark.parametrize(
    ("modules", "sizes", "parameters", "multiplications", "depth"),
    [
        ((1, 1, 1, 0), [112, 56, 56, 56, 28, 28, 14, 14, 7], 31.9e6, 6.2e9, 56),
        ((1, 2, 3, 0), [112, 56, 56, 56, *[28] * 3, *[14] * 4, 7], 51.3e6, 10.4e9, 92),
    ],
)
def test_table_2_of_the_paper(modules, sizes, parameters, multiplications, depth):
    found = measure(224, num_classes=1000, modules=modules)
    assert found[0] == sizes
    assert found[1] == pytest.approx(parameters, rel=0.02)
    assert found[2] == pytest.approx(multiplications, rel=0.02)
    assert found[3] == depth


@pytest.mark.parametrize("m", [1, 2])
def test_networks_for_32_pixels_have_36_m_plus_20_layers(m):
    options = {"units": (2, 2, 2), "width": 16, "stem": "small"}
    sizes, _, _, depth = measure(32, num_classes=10, modules=(m,) * 3, **options)
    assert depth == 36 * m + 20
    assert sizes == [32, 32, *[32] * (m + 1), *[16] * (m + 1), *[8] * (m + 1)]


def test_masks_of_all_stages_reach_down_to_one_size():
    depths = [
        [len(part.mask.down) for part in stage if isinstance(part, AttentionModule)]
        for stage in network(modules=(1, 0, 2, 0), units=(1, 1, 1, 1)).stages
    ]
    assert depths == [[3], [], [1, 1], []]
    given = network(mask_depths=(2, 1)).stages[0][1]
    assert len(given.mask.down) == 2


def test_an_explanation_has_the_mean_mask_of_each_module():
    model, image = network(), torch.randn(2, 3, 16, 16)
    explanation = model.explain({"image": image})
    scores, masks = model.attend(image)
    torch.testing.assert_close(explanation.scores, scores)
    assert explanation.unit_names == ("stage 1 module 1", "stage 2 module 1", "stage 2 module 2")
    assert explanation.maps.shape == (2, 3, 16, 16)
    assert explanation.map_range == (0, 1)
    assert explanation.map_sign == "positive"
    assert 0 <= explanation.maps.min() <= explanation.maps.max() <= 1
    torch.testing.assert_close(explanation.maps[:, 0], masks[0].mean(1))
    large = nn.functional.interpolate(masks[2].mean(1, keepdim=True), (16, 16), mode="bilinear")
    torch.testing.assert_close(explanation.maps[:, 2:], large)
    torch.testing.assert_close(explanation.heat_map(), large[:, 0])
    assert explanation.positions.shape == (2, 3, 2)
    assert explanation.contributions is None
    chosen = torch.tensor([2, 0])
    assert model.explain({"image": image}, chosen).target.equal(chosen)


def test_masks_over_channels_are_signed():
    model = network(mask_activation="channel")
    explanation = model.explain({"image": torch.randn(2, 3, 16, 16)})
    assert (explanation.map_sign, explanation.map_range) == ("signed", (-1, 1))
    assert explanation.maps.abs().max() <= 1
    assert "mask_activation" in model.lacks()["part_interpretability"]
    assert "part_interpretability" not in network().lacks()


def test_one_batch_can_be_learned():
    model = network().train()
    batch = {"image": torch.randn(6, 3, 16, 16), "label": torch.arange(6) % 3}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, nesterov=True)
    losses = []
    for _ in range(12):
        losses.append(model.step(batch, "train")["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def masked_batch():
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(4, 16, 16, dtype=torch.bool)
    mask[:3, 4:12, 2:9] = True  # The last image is not annotated.
    image = torch.randn(4, 3, 16, 16, generator=generator)
    return {"image": image, "label": torch.arange(4) % 3, "mask": mask}


def test_masks_teach_it_where_to_look():
    """Both losses against their definitions, image by image."""
    model, batch = network(right_reasons_weight=2.0, attention_weight=0.5), masked_batch()
    assert model.requires == {"image", "label", "mask"}
    found = model.step(batch, "train")
    reasons = apart = 0.0
    for image, mask in zip(batch["image"][:3], batch["mask"][:3], strict=True):
        watched = image[None].clone().requires_grad_()
        scores, masks = model.attend(watched)
        (gradient,) = torch.autograd.grad(scores.log_softmax(1).sum(), watched)
        reasons += float(gradient[0, :, ~mask].square().sum())
        mean = model.maps(masks)[0].mean(0).detach()
        attention, target = mean / mean.sum(), mask / mask.sum()
        apart -= float((target * (attention / target.clamp(min=1e-9)).log())[mask].sum())
    assert float(found["right_reasons_loss"].detach()) == pytest.approx(reasons / 4, rel=1e-3)
    assert float(found["attention_loss"].detach()) == pytest.approx(apart / 3, rel=1e-3)
    total = found["classification_loss"] + 2 * found["right_reasons_loss"]
    torch.testing.assert_close(found["loss"], total + 0.5 * found["attention_loss"])
    model.train().step(batch, "train")["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    tested = model.step(batch, "val")
    assert "attention_loss" in tested
    assert "right_reasons_loss" not in tested


def test_without_supervision_it_needs_no_annotation():
    model, batch = network(), masked_batch()
    del batch["mask"]
    assert model.requires == {"image", "label"}
    found = model.step(batch, "train")
    torch.testing.assert_close(found["loss"], found["classification_loss"])


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {"image": torch.full((3, 8, 8), float(index)), "label": index % 3}


def test_the_learning_rate_drops_after_shares_of_the_training():
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    model = network(lr=0.08, lr_drops=(0.5, 0.8), lr_drop_factor=0.5)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Watch()],
    )
    trainer.fit(model, torch.utils.data.DataLoader(Images(), batch_size=2))
    assert rates == pytest.approx([0.08] * 5 + [0.04] * 3 + [0.02] * 2)
    group = trainer.optimizers[0].param_groups[0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules": (0, 0)}, r"modules must have one in some stage, got \[0, 0\]"),
        ({"modules": (1, -1)}, r"modules must be one number of at least 0 per stage"),
        ({"modules": ()}, r"modules must be one number of at least 0 per stage, got \[\]"),
        ({"units": (1, 0)}, r"units must be one number of at least 1 per stage, got \[1, 0\]"),
        ({"units": (1,)}, r"units must have one number per stage, 2 as modules .* got \[1\]"),
        ({"mask_depths": (1,)}, "mask_depths must have one number per stage"),
        ({"mask_depths": (1, 0)}, r"mask_depths must be at least 1, got \[1, 0\]"),
        ({"mask_activation": "mix"}, "mask_activation must be one of mixed, channel, spatial"),
        ({"attention_learning": "no"}, "attention_learning must be one of residual, naive"),
        ({"stem": "huge"}, "stem must be large or small, got 'huge'"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"right_reasons_weight": -1}, "right_reasons_weight must be at least 0, got -1"),
        ({"relevant": "mask"}, "relevant must be one of object, parts, attention, got 'mask'"),
        (
            {"mask_activation": "channel", "attention_weight": 0.5},
            "attention_weight must be 0 for mask_activation 'channel'",
        ),
        ({"lr": 0}, "lr must be greater than 0, got 0"),
        ({"momentum": 1}, r"momentum must be in \[0, 1\), got 1"),
        ({"lr_drops": (0.6, 0.4)}, r"lr_drops must be ascending shares .* got \[0.6, 0.4\]"),
        ({"lr_drops": (1.5,)}, "lr_drops must be ascending shares"),
        ({"lr_drop_factor": 0}, r"lr_drop_factor must be in \(0, 1\], got 0"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)
