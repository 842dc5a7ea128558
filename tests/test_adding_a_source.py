"""The example of docs/data.md is put into a copy of frtrain, where nothing else is changed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"`((?:frtrain|configs)/[\w/]+\.(?:py|yaml))`:\n\n```(?:python|yaml)\n(.*?)```", re.DOTALL)

pytestmark = pytest.mark.slow


def test_the_source_of_the_page_is_chosen_by_name_and_can_be_a_part(crops_folder: Callable[..., Path], tmp_path: Path):
    copy = tmp_path / "copy"
    for name in ("frtrain", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    example = dict(BLOCK.findall((ROOT / "docs" / "data.md").read_text(encoding="utf-8")))
    assert list(example) == ["frtrain/data/sources/zipped.py", "configs/data/zipped.yaml"]
    for path, content in example.items():
        assert not (copy / path).exists()
        (copy / path).write_text(content)
    crops = crops_folder(identities=4, images=3)
    with zipfile.ZipFile(tmp_path / "crops.zip", "w") as archive:
        for path in sorted(crops.rglob("*.png")):
            archive.write(path, path.relative_to(crops))
    (tmp_path / "exclude.txt").write_text("person_000\nperson_001/2.png\n")

    command = [
        *(sys.executable, "-m", "frtrain", "data=zipped", f"data.root={tmp_path}/crops.zip"),
        *(
            f"subset.exclude=[{tmp_path}/exclude.txt]",
            "trainer.max_steps=2",
            "trainer.batch_size=4",
            "trainer.device=cpu",
        ),
        *("trainer.workers=0", "validation.fraction=0", "log.tensorboard=false", f"run_dir={tmp_path}/run"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "training on 8 images of 3 identities" in done.stdout + done.stderr
