"""Every registered backbone keeps the contract, and IResNet is the network of the literature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from frtrain.backbones import BACKBONES, cost, cost_of
from frtrain.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs" / "backbone"
ALL = BACKBONES.names()
SMALL = ["iresnet_tiny", "resnet18"]


def spec_of(name: str, **changes: Any) -> dict[str, Any]:
    spec = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    assert isinstance(spec, dict)
    return {**{str(key): value for key, value in spec.items()}, **changes}


def build(name: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return BACKBONES.build(spec_of(name, **changes))


def crops(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_every_backbone_has_one_configuration_and_every_configuration_a_backbone() -> None:
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == ALL


@pytest.mark.parametrize("name", ALL)
def test_configuration_names_its_backbone_and_all_its_parameters(name: str) -> None:
    assert spec_of(name) == {"name": name, **BACKBONES.check(spec_of(name))}


@pytest.mark.parametrize("name", ALL)
def test_crops_become_embeddings_of_the_stated_size(name: str) -> None:
    with torch.device("meta"):
        backbone = BACKBONES.build(spec_of(name, embedding_size=96)).eval()
        assert backbone(torch.empty(3, 3, 112, 112)).shape == (3, backbone.embedding_size) == (3, 96)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("iresnet18", 24.03), ("iresnet34", 34.14), ("iresnet50", 43.59), ("iresnet100", 65.16), ("iresnet200", 118.83)],
)
def test_iresnet_has_the_published_number_of_parameters(name: str, millions: float) -> None:
    assert cost_of(spec_of(name)).parameters / 1e6 == pytest.approx(millions, abs=0.005)


def test_iresnet_has_the_layout_of_insightface_checkpoints() -> None:
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in BACKBONES.build(spec_of("iresnet18")).state_dict().items()}
    assert shapes["conv1.weight"] == (64, 3, 3, 3)
    assert shapes["prelu.weight"] == (64,)
    assert shapes["layer1.0.downsample.0.weight"] == (64, 64, 1, 1)
    assert shapes["layer2.0.conv1.weight"] == (128, 64, 3, 3)
    assert shapes["layer2.0.conv2.weight"] == (128, 128, 3, 3)
    assert shapes["layer4.1.bn3.running_var"] == (512,)
    assert shapes["bn2.weight"] == (512,)
    assert shapes["fc.weight"] == (512, 512 * 7 * 7)
    assert shapes["features.running_mean"] == (512,)


def test_iresnet_block_order_is_bn_conv_bn_prelu_conv_bn() -> None:
    block = build("iresnet18").layer2[0]
    seen: list[str] = []
    for child, module in block.named_children():
        module.register_forward_hook(lambda *_, child=child: seen.append(child))
    block(torch.rand(2, 64, 8, 8))
    assert seen == ["bn1", "conv1", "bn2", "prelu", "conv2", "bn3", "downsample"]


def test_standard_deviation_of_iresnet_convolutions_is_a_tenth() -> None:
    assert build("iresnet18").layer4[1].conv2.weight.std().item() == pytest.approx(0.1, rel=0.01)


def test_resnet_trunk_has_torchvisions_names_and_shapes() -> None:
    torchvision_models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        reference = torchvision_models.resnet50(weights=None).state_dict()
        ours = BACKBONES.build(spec_of("resnet50")).state_dict()
    assert {key: ours[key].shape for key in reference if not key.startswith("fc.")} == {
        key: value.shape for key, value in reference.items() if not key.startswith("fc.")
    }


@pytest.mark.parametrize("name", SMALL)
def test_embedding_scale_is_fixed_to_one(name: str) -> None:
    backbone = build(name)
    assert not backbone.features.weight.requires_grad
    assert backbone.features.weight.eq(1).all()


@pytest.mark.parametrize("name", SMALL)
def test_every_trainable_parameter_gets_a_finite_gradient(name: str) -> None:
    backbone = build(name, dropout=0.0)
    backbone(crops(3)).pow(3).sum().backward()
    for key, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


def test_embedding_in_evaluation_does_not_depend_on_the_rest_of_the_batch() -> None:
    backbone = build("iresnet_tiny").eval()
    with torch.no_grad():
        torch.testing.assert_close(backbone(crops(3))[:1], backbone(crops(3)[:1]), rtol=1e-4, atol=1e-5)


def test_embedding_stays_float32_under_bfloat16_autocast() -> None:
    backbone = build("iresnet_tiny").eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        embedding = backbone(crops())
    assert embedding.dtype == torch.float32
    assert (embedding.bfloat16().float() != embedding).any()


def test_bfloat16_channels_last_embeddings_point_where_float32_ones_do() -> None:
    backbone = build("iresnet_tiny").eval()
    with torch.no_grad():
        reference = backbone(crops(4))
        with torch.autocast("cpu", torch.bfloat16):
            reduced = backbone.to(memory_format=torch.channels_last)(
                crops(4).contiguous(memory_format=torch.channels_last)
            )
    assert nn.functional.cosine_similarity(reduced, reference).min() > 0.999


def test_dropout_acts_only_while_training() -> None:
    backbone = build("iresnet_tiny", dropout=0.5)
    with torch.no_grad():
        assert not torch.equal(backbone(crops(4)), backbone(crops(4)))
        backbone.eval()
        assert torch.equal(backbone(crops(4)), backbone(crops(4)))


@pytest.mark.parametrize(("stem_stride", "strides", "map_size"), [(2, [2, 2, 2, 2], 4), (2, [2, 1, 2, 2], 7)])
def test_tiny_follows_its_configured_shape(stem_stride: int, strides: list[int], map_size: int) -> None:
    shape = {"widths": [16, 16, 24, 40], "blocks": [2, 1, 1, 2]}
    backbone = build("iresnet_tiny", stem_stride=stem_stride, strides=strides, **shape)
    assert backbone.trunk(crops()).shape == (2, 40, map_size, map_size)


def test_tiny_with_relu_has_no_prelu() -> None:
    assert not any(isinstance(module, nn.PReLU) for module in build("iresnet_tiny", activation="relu").modules())


def test_stages_that_disagree_are_refused_with_the_key() -> None:
    with pytest.raises(ConfigError, match=r"backbone=iresnet_tiny: blocks=\[1, 1\].*one number per stage"):
        build("iresnet_tiny", blocks=[1, 1])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"embedding_size": 0}, "backbone.embedding_size"),
        ({"dropout": 1.0}, "backbone.dropout"),
        ({"stem_stride": 3}, "backbone.stem_stride"),
        ({"activation": "gelu"}, "backbone.activation"),
        ({"widths": [32, 0, 64, 128]}, "backbone.widths"),
        ({"depth": 10}, "backbone.depth"),
    ],
)
def test_impossible_value_is_refused_with_its_key(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        build("iresnet_tiny", **changes)


def test_multiply_accumulates_are_those_of_the_layers() -> None:
    backbone = build(
        "iresnet_tiny", widths=[16], blocks=[1], strides=[2], stem_stride=2, embedding_size=16, dropout=0.0
    )
    stem, first, second = 3 * 16 * 9 * 56**2, 16 * 16 * 9 * 56**2, 16 * 16 * 9 * 28**2
    shortcut, linear = 16 * 16 * 28**2, 16 * 28**2 * 16
    assert cost(backbone).multiply_accumulates == stem + first + second + shortcut + linear


def test_counting_leaves_the_backbone_as_it_was() -> None:
    backbone = build("iresnet_tiny")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    cost(backbone)
    assert backbone.training
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
