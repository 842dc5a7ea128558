from __future__ import annotations

import os
import pickle
import resource
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frtrain.data.formats.pickled import read_pickled
from frtrain.data.formats.verification_pack import read_pack, write_pack
from frtrain.data.images import decode_image
from frtrain.errors import DataError

IMAGES = [b"\xff\xd8" + bytes([number]) * (number + 1) for number in range(6)]
GENUINE = [True, False, True]


def written(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol))
    return path


def as_arrays(images: list[bytes]) -> list[Any]:
    return [np.frombuffer(image, dtype=np.uint8) for image in images]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        (IMAGES, GENUINE),
        (as_arrays(IMAGES), GENUINE),
        ([image[:, None] for image in as_arrays(IMAGES)], GENUINE),
        [tuple(IMAGES), np.array(GENUINE)],
        ([bytearray(image) for image in IMAGES], [np.bool_(same) for same in GENUINE]),
        (IMAGES, [1, 0, 1]),
        ([np.array(image) for image in as_arrays(IMAGES)], tuple(GENUINE)),
    ],
    ids=["bytes", "arrays", "columns", "tuple and array", "bytearrays and scalars", "integers", "own arrays"],
)
def test_packs_of_every_form_and_protocol_are_read(tmp_path: Path, value: Any, protocol: int) -> None:
    pack = read_pack(written(tmp_path / "a.bin", value, protocol))
    assert list(pack.images) == IMAGES
    assert pack.genuine.tolist() == GENUINE
    assert len(pack) == 3


def test_pack_of_python_2_is_read(tmp_path: Path) -> None:
    text = b"(lp0\nS'\\xff\\xd8\\x00'\np1\naS\"it's\"\np2\na"
    old = b"(" + text + b"(lp3\nI01\na" + b"tp4\n."
    pack = read_pack(written(tmp_path / "text.bin", old))
    assert (list(pack.images), pack.genuine.tolist()) == ([b"\xff\xd8\x00", b"it's"], [True])
    binary = b"\x80\x02]q\x00(U\x03\xff\xd8\x00q\x01T\x04\x00\x00\x00it'se]\x88a\x86."
    pack = read_pack(written(tmp_path / "binary.bin", binary))
    assert (list(pack.images), pack.genuine.tolist()) == ([b"\xff\xd8\x00", b"it's"], [True])


def test_written_pack_is_what_insightface_unpickles(tmp_path: Path) -> None:
    write_pack(tmp_path / "a.bin", iter(IMAGES), np.array(GENUINE))
    images, genuine = pickle.loads((tmp_path / "a.bin").read_bytes(), encoding="bytes")
    assert (images, genuine) == (IMAGES, GENUINE)
    pack = read_pack(tmp_path / "a.bin")
    assert (list(pack.images), pack.genuine.tolist()) == (IMAGES, GENUINE)


@pytest.mark.parametrize(("images", "message"), [(IMAGES[:5], "5 images for 3 pairs"), ([*IMAGES[:5], b""], "0 bytes")])
def test_pack_that_cannot_be_is_not_written(tmp_path: Path, images: list[bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_pack(tmp_path / "a.bin", images, np.array(GENUINE))
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_no_half_pack(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_pack(tmp_path / "a.bin", [bytes(4000)] * 2, np.array([True]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


class Calls:
    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (Calls(os.system, "touch {mark}"), "import (os|posix|nt).system"),
        (Calls(eval, "open({mark!r}, 'w')"), "import (builtins|__builtin__).eval"),
        (Calls(exec, "open({mark!r}, 'w')"), "import (builtins|__builtin__).exec"),
        (Calls(getattr, "x", "y"), "import (builtins|__builtin__).getattr"),
        (Calls(subprocess.Popen, ["touch", "{mark}"]), "import (subprocess|commands).Popen"),
        (np.array([{}], dtype=object), "make an array of objects"),
        (np.zeros(3), "make an array of 'f8'"),
        (Path("x"), "import (pathlib|copyreg|copy_reg)"),
    ],
    ids=["system", "eval", "exec", "getattr", "Popen", "objects", "floats", "path"],
)
def test_whatever_is_no_image_is_refused_by_name_and_not_run(
    tmp_path: Path, value: Any, asked: str, protocol: int
) -> None:
    mark = tmp_path / "mark"
    if isinstance(value, Calls):
        function, arguments = value.call
        filled = [[part.format(mark=mark) for part in item] if isinstance(item, list) else item.format(mark=mark) for item in arguments]  # fmt: skip
        value = Calls(function, *filled)
    path = written(tmp_path / "a.bin", ([value, b"\xff"], [True]), protocol)
    with pytest.raises(DataError, match=f"refused: the file asks to {asked}") as error:
        read_pack(path)
    assert str(path) in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04Pmy id\n.", "PERSID"),
        (b"\x80\x04K\x01Q.", "BINPERSID"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x04}.", "EMPTY_DICT"),
        (b"(ios\nsystem\n.", "import os.system"),
        (b"\x80\x04c__main__\nx\n)\x81.", "import __main__.x"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "import os.system"),
        (b"\x80\x04cnumpy\nndarray\n)R.", "call ndarray"),
        (b"\x80\x04c_codecs\nencode\n\x8c\x01x\x8c\x05utf-7\x86R.", "encode text otherwise"),
        (b"\x80\x04cnumpy\ndtype\n]\x85R.", "damaged"),
        (b"\x80\x04]N.", "no verification pack"),
        (b"\x80\x04]]K\x05R.", "call what is no function"),
        (b"\x80\x04]Nb.", "set what is no array"),
        (b"\x80\x04B\xff\xff\xff\x7fx.", "cut short"),
        (b"\x80\x05\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.", "cut short"),
        (b"\x80\x04j\x00\x00\x00\x00.", "damaged"),
        (b"\xff\xd8\xff\xe0" * 9, "unknown instruction"),
        (b"not a pickle", "damaged|refused"),
        (b"\x80\x04" + b"(" * 1000 + b".", "nest"),
        (b"\x80\x04R.", "damaged"),
        (b"\x80\x04\x86.", "damaged"),
        (b"\x80\x04.", "damaged"),
        (b"", "is empty"),
        (b"I" + b"9" * 10_000 + b"\n.", "no verification pack"),
    ],
)
def test_hostile_and_damaged_files_are_refused_with_a_reason(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pack(written(tmp_path / "a.bin", content))


def array_pickle(shape: bytes) -> bytes:
    start = b"\x80\x04(cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01" + shape
    return start + b"cnumpy\ndtype\n\x8c\x02u1\x89\x88\x87R\x89C\x04abcdtbC\x01xl]\x88a\x86."


def test_size_of_an_array_is_not_believed(tmp_path: Path) -> None:
    assert read_pack(written(tmp_path / "good.bin", array_pickle(b"K\x04\x85"))).images[0] == b"abcd"
    for number, shape in enumerate(
        [b"J\xff\xff\xff\x7f\x85", b"J\xfc\xff\xff\xff\x85", b"\x8a\x7f" + b"\x7f" * 127 + b"\x85"]
    ):
        with pytest.raises(DataError, match="has 4 bytes"):
            read_pack(written(tmp_path / f"{number}.bin", array_pickle(shape)))


@pytest.mark.parametrize(
    "bomb",
    [
        b"]q\x00" + b"h\x00h\x00\x86q\x00" * 300_000,
        b"]" * 4_000_000,
        b"]" + b"]a" * 2_000_000,
        b")" + b"\x85" * 3_000_000,
        b"N" + b"2" * 3_000_000,
        b"X\x10\x27\x00\x00" + b"a" * 10_000 + b"q\x010" + b"c_codecs\nencode\nh\x01\x8c\x06latin1\x86R" * 20_000,
        b"N" + b"r\xff\xff\xff\xff" * 1000 + b"]" * 1000,
    ],
    ids=["doubling", "lists", "nested", "tuples", "duplicates", "encoded again and again", "memo"],
)
def test_memory_for_a_bomb_is_bounded_by_its_size(tmp_path: Path, bomb: bytes) -> None:
    path = written(tmp_path / "a.bin", b"\x80\x04" + bomb + b".")
    child = os.fork()
    if child == 0:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (300 << 20),) * 2)
        try:
            read_pack(path)
        except DataError:
            os._exit(0)
        except BaseException:
            os._exit(1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("form", ["bytes", "arrays"])
def test_pack_cut_anywhere_is_told(tmp_path: Path, form: str) -> None:
    whole = pickle.dumps((IMAGES if form == "bytes" else as_arrays(IMAGES), GENUINE), protocol=4)
    for end in range(len(whole)):
        with pytest.raises(DataError):
            read_pack(written(tmp_path / "a.bin", whole[:end]))


def test_changed_bytes_never_raise_anything_but_an_error_of_ours(tmp_path: Path) -> None:
    whole = pickle.dumps((as_arrays(IMAGES), GENUINE), protocol=3)
    random = np.random.default_rng(0)
    for _ in range(3000):
        content = bytearray(whole)
        for at in random.integers(0, len(content), random.integers(1, 4)):
            content[at] = random.integers(0, 256)
        with suppress(DataError):
            read_pickled(bytes(content), "a.bin")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((IMAGES[:5], GENUINE), "holds 5 images and 3 pairs"),
        ((IMAGES, [True, False, 2]), "no list of True and False"),
        (([*IMAGES[:5], b""], GENUINE), "image 5 is empty"),
        (([*IMAGES[:5], "text"], GENUINE), "image 5 is a str"),
        (([*IMAGES[:5], np.zeros((2, 2), np.uint8)], GENUINE), r"image 5 is an array of uint8 of shape \(2, 2\)"),
        (([*IMAGES[:5], np.zeros(4, bool)], GENUINE), "image 5 is an array of bool"),
        ((5, GENUINE), "no list of images"),
        ([IMAGES], "expected a pair"),
    ],
)
def test_what_is_no_pack_of_pairs_is_told(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pack(written(tmp_path / "a.bin", value))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.bin: cannot be read"):
        read_pack(tmp_path / "gone.bin")


def test_pack_of_insightface_is_read(shared: Path) -> None:
    pack = read_pack(shared / "formats" / "small_lfw.bin")
    assert (len(pack.images), len(pack), bool(pack.genuine.all())) == (20, 10, True)
    assert {decode_image(image, "a face").shape for image in pack.images} == {(112, 112, 3)}
    assert struct.unpack(">H", pack.images[0][:2]) == (0xFFD8,)
