"""The example of docs/adding-a-loss.md is put into a copy of frtrain, where nothing else is changed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"`((?:frtrain|configs)/[\w/]+\.(?:py|yaml))`:\n\n```(?:python|yaml)\n(.*?)```", re.DOTALL)
SHORT = (
    "backbone=iresnet_tiny", "data.identities=6", "data.images_per_identity=3", "trainer.batch_size=8", "trainer.max_steps=2",
    "trainer.device=cpu", "trainer.workers=0", "validation.fraction=0", "log.every_steps=1", "log.tensorboard=false",
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def example() -> dict[str, str]:
    """Path -> content of the files that the page shows."""
    return dict(BLOCK.findall((ROOT / "docs" / "adding-a-loss.md").read_text()))


@pytest.fixture(scope="module")
def copy(example: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of frtrain with these files and no other change."""
    folder = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("frtrain", "configs", "tests/losses"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copyfile(ROOT / "tests" / "conftest.py", folder / "tests" / "conftest.py")
    for path, content in example.items():
        assert not (folder / path).exists()
        (folder / path).write_text(content)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_page_shows_one_loss_and_one_configuration(example: dict[str, str]):
    assert list(example) == ["frtrain/losses/rising_margin.py", "configs/loss/rising_margin.yaml"]


@pytest.mark.parametrize("classifier", ["dense", "chunked"])
def test_the_example_trains(copy: Path, classifier: str):
    run_dir = copy / f"run_{classifier}"
    done = run(copy, "frtrain", "loss=rising_margin", f"classifier={classifier}", f"run_dir={run_dir}", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    margins = [value for step in steps for name, value in step.items() if name.endswith("margin")]
    assert margins
    assert all(0 < margin < 0.5 for margin in margins)


def test_the_example_is_listed_and_drawn(copy: Path):
    listed = run(copy, "frtrain", "inspect", "losses")
    assert "rising_margin" in listed.stdout, listed.stderr
    assert "T(theta_y) = cos(theta_y) - m_i" in listed.stdout
    drawn = run(
        copy, "frtrain", "inspect", "compare=[cosface,rising_margin]", "picture=picture.png", "dots_per_inch=30"
    )
    assert drawn.returncode == 0, drawn.stderr
    assert (copy / "picture.png").stat().st_size > 1000


def test_the_example_passes_the_tests_of_every_loss(copy: Path):
    done = run(copy, "pytest", "-q", "-p", "no:cacheprovider", "tests/losses/test_head_properties.py",
               "tests/losses/test_loss_configs.py", "-k", "rising_margin")  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 15
