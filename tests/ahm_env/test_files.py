import errno
import json
import os
import pickle
import zlib
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ahm_env.errors import AHMError, CheckpointError, explain
from ahm_env.files import atomic, load_tensors, read_rows, save_tensors, write_rows, write_text

STEADY = settings(derandomize=True)

ABOUT = {"mean": [1.0, 2.5], "name": "größe", "nested": {"steps": 3, "seed": 2**130, "none": None}}


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "matrix": torch.randn(3, 4, generator=generator),
        "strided": torch.randn(4, 6, generator=generator).t()[::2],
        "channels_last": torch.randn(1, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last),
        "number": torch.tensor(7),
        "half": torch.randn(5, generator=generator).to(torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "nothing": torch.zeros(0, 3),
        "learnt": torch.nn.Parameter(torch.randn(2, generator=generator)),
        "infinite": torch.tensor([float("nan"), float("inf"), -0.0]),
    }


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(as_bytes(one), as_bytes(other))


def as_bytes(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


@contextmanager
def no_file_larger_than(size):
    """What a full disk or a quota does: a write stops in the middle with an error of the operating system."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Files that are whole or absent


def test_a_file_appears_whole_and_in_folders_made_for_it(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # the same disk, so that it can take the place at once
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("failure", [RuntimeError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("written", [True, False])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, failure, written):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write():
        with atomic(path) as temporary:
            if written:
                temporary.write_text("half of the ne")
            raise failure("stopped")

    with pytest.raises(failure, match="stopped"):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_reader_never_sees_a_part(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with atomic(path) as temporary, temporary.open("w") as file:
        for word in ("quite ", "new"):
            file.write(word)
            file.flush()
            assert path.read_text() == "old"
    assert path.read_text() == "quite new"


def test_text_is_written_as_utf_8(tmp_path):
    write_text(tmp_path / "text", "größe · ×\n")
    assert (tmp_path / "text").read_bytes() == "größe · ×\n".encode()


def test_a_table_comes_back_as_it_was_in_the_columns_that_are_asked_for(tmp_path):
    rows = [{"name": "a,b", "note": "two\nlines", "other": 1}, {"name": '"', "note": "", "other": 2}]
    write_rows(tmp_path / "table.csv", iter(rows), ("note", "name"))
    assert read_rows(tmp_path / "table.csv") == [{"note": "two\nlines", "name": "a,b"}, {"note": "", "name": '"'}]
    write_rows(tmp_path / "table.csv", rows[:1], separator=";")
    assert (tmp_path / "table.csv").read_bytes() == b'name;note;other\na,b;"two\nlines";1\n'
    write_rows(tmp_path / "table.csv", (), ("name",))
    assert (tmp_path / "table.csv").read_bytes() == b"name\n"


def test_a_writer_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path):
    write_text(tmp_path / "file.txt", "old")
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "file.txt"):
        pass
    assert (tmp_path / "file.txt").read_text() == "old"


# Tensors


def test_tensors_and_their_description_come_back_as_they_were(tmp_path):
    save_tensors(tmp_path / "t.safetensors", tensors(), ABOUT)
    loaded, about = load_tensors(tmp_path / "t.safetensors")
    assert about == ABOUT
    assert loaded.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert same(loaded[name], tensor), name


def test_what_was_loaded_does_not_hang_on_the_file(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.ones(1000)}, {})
    loaded, _ = load_tensors(path)
    loaded["a"] += 1
    save_tensors(path, {"a": torch.zeros(1000)}, {})
    assert (loaded["a"] == 2).all()
    assert (load_tensors(path)[0]["a"] == 0).all()


def test_tensors_that_share_memory_are_saved_each(tmp_path):
    whole = torch.arange(6.0)
    save_tensors(tmp_path / "t.safetensors", {"whole": whole, "part": whole[2:4], "same": whole}, {})
    loaded, _ = load_tensors(tmp_path / "t.safetensors")
    assert loaded["part"].tolist() == [2, 3]
    assert loaded["same"].tolist() == loaded["whole"].tolist() == whole.tolist()


def test_tensors_that_other_workers_change_meanwhile_make_a_file_that_can_be_read(tmp_path, monkeypatch):
    # A checkpoint is written while other workers go on stepping the shared weights.
    weights, crc32, steps = torch.zeros(5), zlib.crc32, []

    def checksum_while_others_step(*data):
        total = crc32(*data)
        weights.add_(1)
        steps.append(1)
        return total

    with monkeypatch.context() as patch:
        patch.setattr(zlib, "crc32", checksum_while_others_step)
        save_tensors(tmp_path / "t.safetensors", {"weights": weights}, {})
    assert steps
    assert load_tensors(tmp_path / "t.safetensors")[0]["weights"].tolist() == [0] * 5


def test_a_file_of_another_program_is_read_without_a_checksum(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    loaded, about = load_tensors(tmp_path / "theirs.safetensors")
    assert loaded["a"].tolist() == [1, 1]
    assert about == {}


def test_every_truncation_is_found(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors(path, tensors(), ABOUT)
    content = path.read_bytes()
    for length in range(0, len(content), 5):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"t\.safetensors"):
            load_tensors(path)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    path = tmp_path_factory.mktemp("intact") / "t.safetensors"
    kept = {name: tensor.detach() for name, tensor in tensors().items() if name in ("matrix", "number", "half")}
    save_tensors(path, kept, {"mean": [120.5], "std": [40.25]})
    return path


@pytest.mark.slow
@settings(STEADY, max_examples=600)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_is_found_or_harmless(intact, share, bit):
    content = bytearray(intact.read_bytes())
    place = int(share * len(content))
    content[place] ^= 1 << bit
    flipped = intact.with_name("flipped.safetensors")
    flipped.write_bytes(content)
    try:
        loaded, about = load_tensors(flipped)
    except CheckpointError:
        return
    whole, whole_about = load_tensors(intact)
    around = bytes(content[max(0, place - 20) : place + 20])
    assert about == whole_about, around
    assert loaded.keys() == whole.keys(), around
    assert all(same(loaded[name], tensor) for name, tensor in whole.items()), around


def test_every_flipped_bit_of_the_numbers_is_found_by_the_checksum(intact):
    content = intact.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    flipped = intact.with_name("numbers.safetensors")
    for place in range(start, len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        flipped.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"numbers\.safetensors: damaged \(checksum differs\)"):
            load_tensors(flipped)


@pytest.mark.parametrize(
    "metadata",
    [{"crc32": "no number"}, {"crc32": ""}, {"about": "{not json"}, {"about": "[1, 2]"}, {"about": "null"}],
    ids=["letters", "empty", "no json", "list", "null"],
)
def test_a_description_that_makes_no_sense_is_damage(tmp_path, metadata):
    save_file({"a": torch.ones(2)}, tmp_path / "t.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match=r"t\.safetensors"):
        load_tensors(tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text, and no tensors\n" * 10,
        b"\x00" * 64,
        pickle.dumps({"a": [1, 2, 3]}),
        json.dumps({"a": 1}).encode(),
        b"PK\x03\x04" + b"\x00" * 100,
        b"\xff" * 100,
    ],
    ids=["empty", "text", "zeros", "pickle", "json", "zip", "ones"],
)
def test_what_is_no_safetensors_file_is_refused_by_its_name_in_one_line(tmp_path, content):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file") as refusal:
        load_tensors(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(CheckpointError, match="no such file") as refusal:
            load_tensors(path)
        assert str(path) in str(refusal.value)


# A full disk


def test_a_full_disk_is_an_error_of_the_operating_system_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.ones(3)}, {"old": True})
    with no_file_larger_than(4096), pytest.raises(OSError) as failure:
        save_tensors(path, {"a": torch.zeros(100_000)}, {})
    assert failure.value.errno == errno.EFBIG
    assert explain(failure.value).startswith(f"{tmp_path}")
    assert load_tensors(path)[1] == {"old": True}
    assert os.listdir(tmp_path) == [path.name]


def test_a_text_that_does_not_fit_on_the_disk_keeps_the_old_one(tmp_path):
    write_text(tmp_path / "text", "old")
    with no_file_larger_than(100), pytest.raises(OSError) as failure:
        write_text(tmp_path / "text", "new" * 1000)
    assert failure.value.errno == errno.EFBIG
    assert (tmp_path / "text").read_text() == "old"
    assert os.listdir(tmp_path) == ["text"]


def test_a_folder_that_cannot_be_made_is_an_error_that_explains_itself(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as failure:
        save_tensors(tmp_path / "file" / "t.safetensors", {"a": torch.ones(1)}, {})
    text = explain(failure.value)
    assert str(tmp_path / "file") in text
    assert "\n" not in text


def test_every_error_of_a_user_has_one_base():
    assert issubclass(CheckpointError, AHMError)
    assert explain(OSError(errno.ENOSPC, "No space left on device", "/data/x")) == (
        "/data/x: the disk is full; free some space, then go on; a run by --resume"
    )
    assert explain(OSError(errno.EIO, "Input/output error", "/data/x")) == "/data/x: Input/output error"
    assert explain(OSError(errno.EROFS, "Read-only file system")) == "read-only; choose another path"
