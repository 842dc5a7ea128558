from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from frtrain.training import tensor_files
from frtrain.training.tensor_files import NotFiniteError, TensorFile, write_tensors

TENSORS = {
    "weight": torch.randn(5, 3, 2, 2).to(memory_format=torch.channels_last),
    "transposed": torch.randn(3, 4).T,
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 4),
    **{
        str(dtype): torch.tensor([[1, 0], [1, 1]]).to(dtype)
        for dtype in (*tensor_files.TYPES,)
        if dtype not in (torch.float32, torch.int64)
    },
}


def test_another_reader_of_the_format_finds_the_same_tensors(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    written = write_tensors(path, TENSORS, finite=True)
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert written.bytes == path.stat().st_size


def test_rows_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensor_files, "READ_BYTES", 2 * 3 * 4)  # two rows
    rows = torch.arange(21.0).reshape(7, 3)
    save_file({"rows": rows}, tmp_path / "a.safetensors")
    file = TensorFile(tmp_path / "a.safetensors")
    blocks = list(file.rows("rows", 1, 6))
    assert [first for first, _ in blocks] == [1, 3, 5]
    assert torch.equal(torch.cat([block for _, block in blocks]), rows[1:6])
    assert list(file.rows("rows", 3, 3)) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_is_named(tmp_path: Path, dtype: torch.dtype, value: float):
    bad = torch.ones(5, dtype=dtype)
    bad[3] = value
    with pytest.raises(NotFiniteError, match="bad"):
        write_tensors(tmp_path / "a", {"good": torch.ones(3), "bad": bad}, finite=True)
    write_tensors(tmp_path / "a", {"bad": bad})
