"""Vision transformers: torchvision's outputs, exact attention, roll-out, weights, freezing."""

import math

import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from pellucid.batch import BatchError
from pellucid.datamodules.synthetic_parts import SyntheticParts
from pellucid.models.backbones import TransformerBackbone, WeightsError
from pellucid.models.backbones.transformer import interpolate_positions
from pellucid.models.interpretable_cnn import InterpretableCNN
from pellucid.models.layers.attention_rollout import attention_rollout
from pellucid.models.vit_attention import ViTAttention
from tests.models.test_fine_tuning import quiet_trainer

SIZE = 32
CELLS = SIZE // 8


def reference(image_size=SIZE, num_layers=4):
    """torchvision's network of the size of vit_tiny, drawn at random."""
    torch.manual_seed(0)
    network = VisionTransformer(image_size, 8, num_layers, 4, 64, 128, num_classes=3).eval()
    nn.init.normal_(network.heads.head.weight)
    return network


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vit.pth"
    torch.save(reference().state_dict(), path)
    return str(path)


def tiny(weights="none", **options):
    torch.manual_seed(1)
    return ViTAttention(3, "vit_tiny", weights, **({"image_size": SIZE} | options)).eval()


def softmax_attention(block, tokens):
    """Attention of one block by its definition, (B, heads, N, N)."""
    layer = block.self_attention
    query, key, _ = nn.functional.linear(
        block.ln_1(tokens), layer.in_proj_weight, layer.in_proj_bias
    ).chunk(3, -1)
    heads = []
    for each in range(layer.num_heads):
        part = slice(each * layer.head_dim, (each + 1) * layer.head_dim)
        logits = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(layer.head_dim)
        heads.append(logits.softmax(-1))
    return torch.stack(heads, 1)


def attention_of(network, image):
    """Attention of each block of torchvision's network, by hand."""
    seen, handles = [], []
    for block in network.encoder.layers:
        handles.append(
            block.register_forward_pre_hook(
                lambda block, inputs: seen.append(softmax_attention(block, inputs[0]))
            )
        )
    with torch.no_grad():
        network(image)
    for handle in handles:
        handle.remove()
    return seen


def rolled_by_hand(layers):
    """Attention roll-out by loops over images, rows, columns and what lies between."""
    count = layers[0].shape[-1]
    result = torch.zeros(len(layers[0]), count, count)
    for image in range(len(result)):
        joint = [[float(i == j) for j in range(count)] for i in range(count)]
        for layer in layers:
            mixed = [
                [0.5 * float(layer[image, i, j]) + 0.5 * (i == j) for j in range(count)]
                for i in range(count)
            ]
            joint = [
                [sum(mixed[i][k] * joint[k][j] for k in range(count)) for j in range(count)]
                for i in range(count)
            ]
        result[image] = torch.tensor(joint)
    return result


def test_rollout_by_hand():
    torch.manual_seed(0)
    layers = [torch.randn(2, 5, 5).mul(3).softmax(-1) for _ in range(3)]
    rolled = attention_rollout(layers)
    torch.testing.assert_close(rolled, rolled_by_hand(layers))
    torch.testing.assert_close(rolled.sum(-1), torch.ones(2, 5))
    # Not the product in the other order.
    assert not torch.allclose(rolled, attention_rollout(layers[::-1]), atol=1e-3)


def test_rows_of_rollout_sum_to_one_in_low_precision():
    layers = [torch.randn(1, 50, 50).softmax(-1).bfloat16() for _ in range(12)]
    rolled = attention_rollout(layers)
    assert rolled.dtype == torch.float32
    torch.testing.assert_close(rolled.sum(-1), torch.ones(1, 50))


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ([], "at least one layer, got none"),
        ([torch.zeros(2, 3, 4)], r"\(B, N, N\) per layer, got \(2, 3, 4\)"),
        ([torch.zeros(2, 4, 3, 3)], "average over heads first"),
    ],
)
def test_rollout_wants_square_matrices(attention, message):
    with pytest.raises(ValueError, match=message):
        attention_rollout(attention)


@pytest.mark.parametrize("kind", ["rollout", "class_token"])
def test_outputs_are_torchvisions_and_attention_is_exact(kind, weights):
    network, model = reference(), tiny(weights, explanation=kind)
    model.classifier.load_state_dict(network.heads.head.state_dict())
    image = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = network(image)
        torch.testing.assert_close(model(image), expected)
    explanation = model.explain({"image": image})
    torch.testing.assert_close(explanation.scores, expected)
    layers = attention_of(network, image)
    if kind == "rollout":
        shown = rolled_by_hand([layer.mean(1) for layer in layers])[:, None, 0, 1:]
        assert explanation.unit_names == ("roll-out",)
    else:
        shown = layers[-1][:, :, 0, 1:]
        assert explanation.unit_names == ("head 1", "head 2", "head 3", "head 4")
    assert model.num_units == len(explanation.unit_names)
    torch.testing.assert_close(explanation.maps.flatten(2), shown)
    assert explanation.maps.shape[-2:] == (CELLS, CELLS)
    assert explanation.map_range == (0, 1)
    assert explanation.contributions is None
    best = shown.argmax(-1)
    centres = torch.stack((best % CELLS, best // CELLS), -1) * 8 + 3.5
    torch.testing.assert_close(explanation.positions, centres)


def asked(model):
    """Which blocks compute attention weights in a call, as the layers' outputs tell."""
    seen = []
    for layer in model.backbone._attention():
        layer.register_forward_hook(lambda layer, i, output: seen.append(output[1] is not None))
    return seen


def test_training_computes_no_attention_weights():
    model = tiny().train()
    batch = {"image": torch.randn(2, 3, SIZE, SIZE), "label": torch.tensor([0, 1])}
    seen = asked(model)
    assert "maps" not in model.step(batch, "train")
    assert seen == [False] * 4
    assert model.step(batch, "val")["maps"].shape == (2, 1, CELLS, CELLS)
    assert seen[4:] == [True] * 4
    model.step(batch, "train")
    assert seen[8:] == [False] * 4
    last = tiny(explanation="class_token")
    seen = asked(last)
    last.explain(batch)
    assert seen == [False, False, False, True]


def test_recording_ends_with_an_error_too():
    model = tiny()
    with pytest.raises(BatchError), model.backbone.recording((0,), True):
        model.backbone(torch.randn(1, 3, 8, 8))
    seen = asked(model)
    model(torch.randn(1, 3, SIZE, SIZE))
    assert seen == [False] * 4


@pytest.mark.parametrize("option", ["attention_weight", "right_reasons_weight"])
@pytest.mark.parametrize("trainable", [None, 1])
def test_supervision_teaches_where_to_look(option, trainable):
    """All else being equal, the annotation changes the gradients; and all of them are finite."""
    gradients = []
    for half in (slice(0, 16), slice(16, 32)):
        options = {option: 1.0, "trainable_stages": trainable, "explanation": "class_token"}
        model = tiny(**options).train()
        assert "mask" in model.requires
        mask = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
        mask[:, half] = True
        image = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        outputs = model.step({"image": image, "label": torch.tensor([0, 2]), "mask": mask}, "train")
        name = option.replace("weight", "loss")
        total = outputs["classification_loss"] + outputs[name]
        torch.testing.assert_close(outputs["loss"], total)
        outputs["loss"].backward()
        gradients.append(model.backbone.stages[-1][0].self_attention.in_proj_weight.grad)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not torch.allclose(*gradients)


def test_maps_can_be_supervised():
    model = tiny(explanation="class_token")
    _, maps = model.attend(torch.randn(2, 3, SIZE, SIZE))
    maps[:, 0, 0, 0].sum().backward()
    assert model.backbone.stages[0].conv_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [48, 16])
def test_weights_for_another_image_size(size, weights):
    model, network = tiny(weights, image_size=size), reference(size)
    state = interpolate_embeddings(size, 8, reference().state_dict())
    network.load_state_dict(state)
    model.classifier.load_state_dict(network.heads.head.state_dict())
    image = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(model(image), network(image))
    assert model.explain({"image": image}).maps.shape == (2, 1, size // 8, size // 8)


def test_position_embeddings_of_another_form_are_left_alone():
    for shape in [(1, 8, 6), (1, 1, 6), (5, 6)]:
        embedding = torch.randn(shape)
        assert interpolate_positions(embedding, 3) is embedding


def test_files_with_old_names_and_prefixes(tmp_path, weights):
    state = {
        "module."
        + name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value
        for name, value in reference().state_dict().items()
    }
    assert any("linear_2" in name for name in state)
    torch.save(state, tmp_path / "old.pth")
    old, new = tiny(str(tmp_path / "old.pth")), tiny(weights)
    for ours, theirs in zip(old.parameters(), new.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert old.loaded_weights.tensors == len(state) - 2
    assert old.loaded_weights.total == len(state)


@pytest.mark.parametrize("number", [3, 5])
def test_weights_of_a_network_of_another_depth(number, tmp_path):
    torch.save(reference(num_layers=number).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"are not of a vit_tiny: .*encoder_layer"):
        tiny(str(tmp_path / "other.pth"))


def test_checkpoints_as_weights(tmp_path):
    data = SyntheticParts(image_size=SIZE, num_classes=3, train_size=8, val_size=8, test_size=8)
    model, trainer = tiny(schedule="constant"), quiet_trainer()
    trainer.fit(model, datamodule=data)
    path = str(tmp_path / "own.ckpt")
    trainer.save_checkpoint(path)
    again = ViTAttention(5, "vit_tiny", path, image_size=SIZE)
    for ours, theirs in zip(model.backbone.parameters(), again.backbone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert again.normalisation == (tuple(data.mean), tuple(data.std))
    # The checkpoint alone rebuilds its model, without a file of weights.
    loaded = ViTAttention.load_from_checkpoint(path, weights_only=True)
    image = torch.ones(1, 3, SIZE, SIZE)
    torch.testing.assert_close(loaded.eval()(image), model.eval()(image))
    with pytest.raises(WeightsError, match="backbone 'vit_tiny', not of a vit_b_32"):
        TransformerBackbone("vit_b_32", path, num_layers=1)
    with pytest.raises(WeightsError, match="backbone 'vit_tiny', not of a small"):
        InterpretableCNN(3, "small", path)


def test_published_sizes_and_normalisation(monkeypatch):
    """Under the name of torchvision's weights, whose download a small state dict stands for."""
    from torchvision.models import ViT_B_16_Weights

    with torch.device("meta"):
        backbone = TransformerBackbone("vit_b_16")
    # 86,567,656 of torchvision's documentation, less its classifier of 1000 classes.
    assert sum(p.numel() for p in backbone.parameters()) == 86_567_656 - 769_000
    torch.manual_seed(0)
    short = VisionTransformer(SIZE, 16, 1, 12, 768, 3072)
    monkeypatch.setattr(ViT_B_16_Weights, "get_state_dict", lambda *_, **__: short.state_dict())
    model = ViTAttention(3, "vit_b_16", "IMAGENET1K_V1", image_size=SIZE, num_layers=1)
    ours, theirs = model.backbone.stages[1][0].mlp[3], short.encoder.layers[0].mlp[3]
    torch.testing.assert_close(ours.bias, theirs.bias)
    assert model.normalisation.mean == pytest.approx((0.485, 0.456, 0.406))


@pytest.mark.parametrize("trainable", [0, 1, 3, 5, None])
def test_the_first_blocks_stay_frozen(trainable):
    model = tiny(trainable_stages=trainable)
    trained = [all(p.requires_grad for p in stage.parameters()) for stage in model.backbone.stages]
    count = 5 if trainable is None else trainable
    assert trained == [False] * (5 - count) + [True] * count
    assert model.classifier.weight.requires_grad


def test_cached_tokens_train_alike():
    models = []
    for cache in (False, True):
        data = SyntheticParts(
            image_size=SIZE, num_classes=3, train_size=16, val_size=8, test_size=8, batch_size=8
        )
        model = tiny(trainable_stages=1, cache_frozen=cache, schedule="constant", lr=0.01)
        runs = [0]

        def count(layer, inputs, output, runs=runs):
            runs[0] += len(output)

        model.backbone.stages[0].register_forward_hook(count)
        quiet_trainer(max_epochs=2).fit(model, datamodule=data)
        models.append((model, runs[0]))
    (plain, often), (cached, once) = models
    # The second epoch's; validation looks at the attention in frozen blocks, and runs them.
    assert often - once == 16
    for ours, theirs in zip(plain.parameters(), cached.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 30}, "image_size must be a multiple of the patch size 8 .* got 30; 32"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"num_heads": 5}, "width must be a multiple of num_heads 5, got 64"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"explanation": "roll"}, "explanation must be rollout or class_token, got 'roll'"),
        ({"trainable_stages": 6}, "trainable_stages must be at most 5 for vit_tiny, got 6"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"backbone": "vit_b16"}, "backbone must be a vision transformer .* got 'vit_b16'"),
        ({"weights": "nowhere.pth"}, "weights must be one of none, or a file; there is no file"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ViTAttention(**({"num_classes": 3, "backbone": "vit_tiny", "image_size": SIZE} | options))


def test_images_of_another_size_are_refused():
    with pytest.raises(BatchError, match=r"\(B, 3, 32, 32\), got \(1, 3, 64, 64\)"):
        tiny()(torch.zeros(1, 3, 64, 64))


def test_other_sizes_by_arguments():
    model = tiny(patch_size=16, num_layers=2, num_heads=2, width=32, explanation="class_token")
    assert model.explain({"image": torch.randn(1, 3, SIZE, SIZE)}).maps.shape == (1, 2, 2, 2)
