"""The safetensors reader agrees with the reference implementation, and nothing makes it crash or over-read."""

from __future__ import annotations

import json
import struct

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from adapters.tensor_file import chunks, parse_json, read_header

GOOD = save({"a": numpy.arange(6, dtype="f4").reshape(2, 3), "b": numpy.ones(3, "f2")}, {"format": "pt"})


def written(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    return path


def made(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_what_the_reference_writes(tmp_path):
    path = written(tmp_path, GOOD)
    tensors = read_header(path)
    assert {name: (t.dtype, t.shape) for name, t in tensors.items()} == {"a": ("F32", (2, 3)), "b": ("F16", (3,))}
    with path.open("rb") as file:
        assert b"".join(chunks(file, tensors["a"], 5)) == numpy.arange(6, dtype="f4").tobytes()
    assert tensors["b"].end == path.stat().st_size


def test_an_empty_tensor_is_fine(tmp_path):
    tensors = read_header(written(tmp_path, save({"a": numpy.zeros((0, 3), "f4"), "b": numpy.ones(2, "f4")})))
    assert tensors["a"].start == tensors["a"].end


BAD = {
    "nothing": (b"", "shorter than"),
    "no header": (b"\x01\x02", "shorter than"),
    "pickle": (b"\x80\x04\x95" + b"\0" * 60, "truncated, or not safetensors"),
    "huge length": (b"\xff" * 8 + b"{}", "truncated, or not safetensors"),
    "not JSON": (made(b"{'a'}"), "is not JSON"),
    "not UTF-8": (made(b'{"\xff": 1}'), "is not UTF-8"),
    "not an object": (made(b"[]"), "not an object"),
    "nested": (made(b"[" * 200_000), "nested too deeply|is not JSON"),
    "twice": (made(b'{"a": {"dtype": "F32"}, "a": 1}'), "has the key 'a' twice"),
    "NaN": (made(b'{"a": NaN}'), "contains NaN"),
    "no fields": (made({"a": {}}), "lacks dtype, shape or data_offsets"),
    "unknown type": (made({"a": entry("F33")}, b"\0" * 8), "unknown type"),
    "type is a list": (made({"a": {**entry(), "dtype": ["F32"]}}, b"\0" * 8), "unknown type"),
    "negative shape": (made({"a": entry(shape=(-2,))}, b"\0" * 8), "no valid shape"),
    "boolean shape": (made({"a": {**entry(), "shape": [True, 2]}}, b"\0" * 8), "no valid shape"),
    "fraction": (made({"a": {**entry(), "shape": [2.0]}}, b"\0" * 8), "no valid shape"),
    "giant shape": (made({"a": entry(shape=(2**62, 2**62))}, b"\0" * 8), "but has 8 bytes"),
    "one offset": (made({"a": {**entry(), "data_offsets": [0]}}, b"\0" * 8), "no valid data_offsets"),
    "backwards": (made({"a": entry(offsets=(8, 0))}, b"\0" * 8), "but has -8 bytes"),
    "wrong size": (made({"a": entry(offsets=(0, 4))}, b"\0" * 4), "but has 4 bytes"),
    "overlap": (made({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12), "overlaps the one before"),
    "same bytes": (made({"a": entry(), "b": entry()}, b"\0" * 8), "overlaps the one before"),
    "gap": (made({"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20), "leaves a gap"),
    "beyond the end": (made({"a": entry(shape=(4,), offsets=(0, 16))}, b"\0" * 8), "truncated"),
    "something behind": (made({"a": entry()}, b"\0" * 9), "longer than its tensors"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(tmp_path, name):
    content, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        read_header(written(tmp_path, content))


def test_a_header_of_unreasonable_size_is_not_even_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr("adapters.tensor_file._MAX_HEADER", 50)
    with pytest.raises(ValueError, match=r"the header has .* bytes, 50 at most"):
        read_header(written(tmp_path, GOOD))


@pytest.mark.parametrize("keep", range(0, len(GOOD), 7))
def test_every_truncation_is_refused(tmp_path, keep):
    with pytest.raises(ValueError):
        read_header(written(tmp_path, GOOD[:keep]))


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = written(tmp_path, GOOD)
    tensors = read_header(path)
    path.write_bytes(GOOD[:-20])
    with path.open("rb") as file, pytest.raises(ValueError, match="became shorter"):
        list(chunks(file, tensors["b"]))


MUTATION = st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(MUTATION)
def test_mutated_files_are_read_as_the_reference_reads_them_or_refused(tmp_path, changes):
    """Whatever we accept, the reference implementation (and so the engine) accepts with the same meaning."""
    content = bytearray(GOOD)
    for position, value in changes:
        content[position] = value
    path = written(tmp_path, bytes(content))
    try:
        tensors = read_header(path)
    except ValueError:
        return
    with safe_open(path, "numpy") as reference:
        assert set(reference.keys()) == set(tensors)
        assert all(tuple(reference.get_slice(name).get_shape()) == tensors[name].shape for name in tensors)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "BF16", "F4"]) | JSON, "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
     "data_offsets": st.lists(st.integers(-1, 32), max_size=3) | JSON}
)  # fmt: skip


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.text(max_size=6), ENTRIES | JSON, max_size=4) | JSON, st.integers(0, 40))
def test_any_json_header_is_read_or_refused_with_a_reason(tmp_path, header, size):
    path = written(tmp_path, made(header, b"\0" * size))
    try:
        tensors = read_header(path)
    except ValueError as error:
        assert str(error)
        return
    assert sum(tensor.end - tensor.start for tensor in tensors.values()) == size
    try:
        with safe_open(path, "numpy") as reference:
            assert set(reference.keys()) == set(tensors)
    except SafetensorError as error:
        # The reference wants text in __metadata__, and knows fewer types; it refuses, so nothing is loaded wrongly.
        assert "invalid JSON" in str(error) or "etadata" in str(error) or "Dtype" in str(error), str(error)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_json_is_parsed_strictly_or_refused(content):
    try:
        value = parse_json(content)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    json.dumps(value, allow_nan=False)
