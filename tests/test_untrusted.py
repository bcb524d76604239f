"""Files that somebody else made are opened only if they are files, and read only within limits."""

import json
import os
import socket
import time

import pytest

from ddcal.untrusted import (
    MAX_DEPTH,
    MAX_VALUES,
    Untrusted,
    open_below,
    open_regular,
    parse_json,
    plain_name,
    read_bytes,
    read_json,
)


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (make_fifo, "a FIFO"),
        (make_socket, "a socket"),
        (os.mkdir, "a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "a link"),
        (lambda path: path.symlink_to("/etc/hostname"), "a link"),
        (lambda path: path.symlink_to(path), "a link"),
    ],
)
def test_only_files_are_opened(make, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = tmp_path / "x"
    make(path if kind != "a socket" else type(path)("x"))
    with pytest.raises(Untrusted, match=f"^is {kind}, not a file$"):
        read_bytes(path, 100)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_devices_are_not_read(path):
    with pytest.raises(Untrusted, match=r"^is a device, not a file$"):
        open_regular(path)


def test_a_link_that_the_user_typed_is_followed_to_files_alone(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "good").symlink_to("file")
    (tmp_path / "bad").symlink_to("/dev/zero")
    (tmp_path / "circle").symlink_to("circle")
    assert read_bytes(tmp_path / "good", 3, links=True) == b"abc"
    with pytest.raises(Untrusted, match="a device"):
        read_bytes(tmp_path / "bad", 3, links=True)
    with pytest.raises(Untrusted, match="cannot be opened"):
        read_bytes(tmp_path / "circle", 3, links=True)


def test_the_size_is_checked_before_and_while_reading(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(Untrusted, match=r"^is larger than 1000 bytes$"):
        read_bytes(path, 1000)
    with pytest.raises(Untrusted, match=r"^is larger than 10 bytes$"):
        read_bytes("/proc/self/status", 10)  # says that it is empty


def test_missing_files_are_missing_as_ever(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "gone", 1)
    with pytest.raises(NotADirectoryError):
        read_bytes(tmp_path / "file" / "x", 1)
    with pytest.raises(FileNotFoundError):
        open_below(tmp_path, "gone/x")
    with pytest.raises(Untrusted, match="no path"):
        read_bytes(f"{tmp_path}/a\0b", 1)


def test_below_a_folder_no_link_leads_out(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "a").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (inside / "a" / "good").write_bytes(b"good")
    (inside / "b").symlink_to(outside)
    (inside / "c").symlink_to(outside / "secret")
    (tmp_path / "way").symlink_to(inside)
    with open_below(tmp_path / "way", "a/good") as stream:
        assert stream.read() == b"good"
    for name in ("b/secret", "c"):
        with pytest.raises(Untrusted, match="a link"):
            open_below(inside, name)
    with pytest.raises(Untrusted, match="not a plain name"):
        open_below(inside, "../outside/secret")


GOOD_NAMES = ["a", "a/b.json", "calibrators/raw.json", "...", ".hidden", "a b", "Füße/猫.png", "a..b", "~"]
BAD_NAMES = ["", "/", "/etc/passwd", "..", ".", "../a", "a/../b", "a/..", "a//b", "a/", "./a", "a\\b", "..\\a", "a\0b"]
BAD_NAMES += [
    "a\nb",
    "\x1b[31m",
    "a\x85b",
    "\ud800",
    "a\u2028b",
    "x" * 256,
    "é" * 128,
    "/".join("x" * 600),
    7,
    None,
    b"a",
]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_plain_names(name):
    assert plain_name(name) == name


@pytest.mark.parametrize("name", [*BAD_NAMES, ["a"], "x" * 10**6], ids=lambda name: repr(name)[:20])
def test_names_that_lead_elsewhere_are_refused_in_one_printable_line(name):
    with pytest.raises(Untrusted) as caught:
        plain_name(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 150


def test_json_is_read_as_ever(tmp_path):
    value = {"a": [1, -2.5, True, None, 'ü\\"[{,', {}], "b": 2**64 - 1, "c": "\U0001f600"}
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "x.json") == value
    assert parse_json('"[[["') == "[[["
    assert str(parse_json('{"a": NaN, "b": -Infinity}', nan=True)) == "{'a': nan, 'b': -inf}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        (b"\xff{}", "is not UTF-8"),
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), "nested deeper"),
        ('["\\"",' + "[" * 100, "nested deeper"),
        ("[" + "0," * MAX_VALUES + "0]", "more than 1000000 values"),
        ("[" + "[]," * MAX_VALUES + "0]", "more than 1000000 values"),
        ("9" * 5000, "beyond 64 bits"),
        (str(2**64), "beyond 64 bits"),
        ("-" + "9" * 21, "beyond 64 bits"),
        ("NaN", "no finite number"),
        ("[-Infinity]", "no finite number"),
        ("1e999", "no finite number"),
        ('"\\ud800"', "surrogate"),
        ('{"\\uDFFF": 1}', "surrogate"),
        (" " * 17_000_000, "larger than"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_json_that_is_none_or_a_bomb(text, said):
    start = time.process_time()
    with pytest.raises(Untrusted, match=said):
        parse_json(text)
    assert time.process_time() - start < 200


@pytest.mark.parametrize(
    "text", ['"' + '\\"' * 500_000, '"' + "\\" * 1_000_001, '"' * 1_000_001, "{" + '"a":"' * 200_000]
)
def test_broken_strings_take_linear_time(text):
    with pytest.raises(Untrusted):
        parse_json(text)  # squared, this would be minutes
