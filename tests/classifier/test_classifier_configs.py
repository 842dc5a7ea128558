import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from frtrain.classifier import CLASSIFIERS, Classifier
from frtrain.losses import LOSSES

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", CLASSIFIERS.names())
def test_every_classifier_has_a_configuration_that_builds(name):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        composed = compose(overrides=[f"+classifier={name}", "+loss=cosface"])
    node = OmegaConf.to_container(composed)
    classifier = CLASSIFIERS.build(node["classifier"], head=LOSSES.build(node["loss"]), classes=3, embedding_size=4)
    factory = CLASSIFIERS.get(name).factory
    assert isinstance(classifier, factory if inspect.isclass(factory) else Classifier)
    assert classifier.classes == 3
