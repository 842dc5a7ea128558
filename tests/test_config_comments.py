"""The configuration files explain themselves."""

import re
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[1] / "configs"
GROUPS = (
    "trainer",
    "classifier",
    "optimizer",
    "scheduler",
    "augment",
    "auxiliary",
    "backbone",
    "data",
    "subset",
    "suite",
    "sampler",
    "device_augment",
)
FILES = ["train.yaml", *sorted(f"{group}/{path.name}" for group in GROUPS for path in (CONFIGS / group).glob("*.yaml"))]


def keys_without_comment(file: str) -> list[str]:
    """Keys of the file, at any depth; a component's `name` is the file's, and `defaults` are other files."""
    text = re.sub(r"(?m)^defaults:\n(  .*\n)*", "", (CONFIGS / file).read_text())
    lines = [line for line in text.splitlines() if re.match(r" *\w+:", line)]
    if "/" in file:
        lines = [line for line in lines if not line.startswith("name:")]
    return [line for line in lines if not re.search(r"\s# \S", line)]


@pytest.mark.parametrize("file", FILES)
def test_every_key_says_what_it_is(file):
    assert keys_without_comment(file) == []
