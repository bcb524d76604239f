"""The ledger in parts on S3: each is written once, and what is not as it was written is told."""

import json
import uuid

import pytest
from stores import make_bucket

from ddcal.errors import BadInput, ResourceError, StoreError
from ddcal.store.bucket import Bucket, check_client
from ddcal.store.lock_holder import Holder
from ddcal.study.record.ledger import DamagedLedger
from ddcal.study.record.lock import LOCK, described
from ddcal.study.remote.bucket_lock import BucketLock
from ddcal.study.remote.parts import Parts, pack, part_name, read_parts

LINES = (b'{"a": 1}\n{"b": 2}\n', b'{"c": 3}\n', b'{"d": 4}\n')


@pytest.fixture
def bucket(s3_endpoint):
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    make_bucket(s3_endpoint, name)
    return Bucket.at(f"s3://{name}/runs?endpoint_override={s3_endpoint}&scheme=http&region=us-east-1", "tiny")


def put_parts(bucket):
    first = 1
    for number, lines in enumerate(LINES, start=1):
        assert bucket.create(part_name(number), pack(number, first, lines, "process 1 on here", "token"))
        first += lines.count(b"\n")


def test_an_object_is_created_once_and_replaced_only_as_it_was_seen(bucket):
    assert bucket.read("one") is None and bucket.names("x") == {}
    assert bucket.create("x/one", b"first") and not bucket.create("x/one", b"second")
    seen = bucket.read("x/one")
    assert seen.content == b"first" and bucket.names("x") == {"x/one": 5}
    assert bucket.replace("x/one", b"third", seen.etag) and not bucket.replace("x/one", b"fourth", seen.etag)
    assert bucket.read("x/one").content == b"third"
    assert not bucket.replace("gone", b"", seen.etag)
    bucket.delete("x/one")
    bucket.delete("x/one")
    assert bucket.names("x") == {}


def test_what_cannot_be_reached_is_said_with_its_cause(s3_endpoint, monkeypatch):
    with pytest.raises(StoreError, match=r"s3://bucket/x/tiny cannot be read: it cannot be reached"):
        Bucket.at("s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http", "tiny").check()
    with pytest.raises(StoreError, match=r"s3://absent/tiny/one cannot be written: there is no such bucket"):
        Bucket.at(f"s3://absent?endpoint_override={s3_endpoint}&scheme=http", "tiny").create("one", b"")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StoreError, match="there are no credentials"):
        Bucket.at(f"s3://absent?endpoint_override={s3_endpoint}&scheme=http", "tiny").check()


def test_the_package_that_speaks_to_s3_is_asked_for(monkeypatch):
    check_client()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ResourceError, match=r"storage.output: S3 needs the package botocore: pip install 'ddcal\[s3\]'"
    ):
        check_client()


def test_parts_are_read_as_the_ledger_that_they_were(bucket):
    assert read_parts(bucket) == Parts(0, b"")
    put_parts(bucket)
    there = read_parts(bucket)
    assert there == Parts(3, b"".join(LINES)) and there.lines == 4


def changed(bucket, number, change):
    name = part_name(number)
    bucket.write(name, change(bucket.read(name).content))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda b: changed(b, 2, lambda c: c.replace(b'"c"', b'"C"')), "00000002.jsonl does not fit its checksum: put"),
        (lambda b: changed(b, 3, lambda c: c[:-3]), "00000003.jsonl has not the 1 lines that it had"),
        (lambda b: changed(b, 1, lambda c: b"\0" * 20), "00000001.jsonl is not JSON"),
        (lambda b: changed(b, 1, lambda c: b'{"part": 1}\n'), "00000001.jsonl is not in its format"),
        (lambda b: b.delete(part_name(2)), "00000002.jsonl is missing, and part 3 is there: put it back"),
        (lambda b: changed(b, 3, lambda c: b.read(part_name(2)).content), "3.jsonl is part 2, from line 3 on, under"),
        (lambda b: b.write("ledger/notes.txt", b"mine"), "ledger/notes.txt is no part of a ledger: move it away"),
    ],
    ids=["changed", "cut", "no JSON", "another format", "a hole", "doubled", "foreign"],
)
def test_parts_that_are_not_as_they_were_written(bucket, damage, said):
    put_parts(bucket)
    damage(bucket)
    with pytest.raises(DamagedLedger) as raised:
        read_parts(bucket)
    assert f"{bucket.url}/ledger/" in str(raised.value) and said in str(raised.value)


def lock_of(bucket, **holder):
    bucket.write(LOCK, json.dumps({**described(), **holder}).encode())


def test_a_lock_is_one_driver_s_and_is_taken_from_a_dead_one(bucket, tmp_path):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    lock = BucketLock(bucket, here)
    with pytest.raises(BadInput, match=rf"{bucket.url} is in use by process \d+ on .*: wait for it or end it"):
        BucketLock(bucket, elsewhere)
    lock = BucketLock(bucket, here)  # whoever holds the folder's own lock follows its former driver
    lock.release()
    assert bucket.read(LOCK) is None
    lock_of(bucket, started=Holder.here().started - 1)  # a process id that was given out again
    lock = BucketLock(bucket, elsewhere)
    lock_of(bucket, host="another")
    lock.release()  # no longer ours: it stays
    with pytest.raises(BadInput, match=f"on another: .* if that machine is gone for good, remove {bucket.url}/{LOCK}"):
        BucketLock(bucket, elsewhere)
    with pytest.raises(BadInput, match="--take-over cannot tell"):
        BucketLock(bucket, elsewhere, take_over=True)
    bucket.write(LOCK, b"[]")
    with pytest.raises(BadInput, match="is not a lock of ddcal"):
        BucketLock(bucket, elsewhere)


def test_a_server_that_knows_no_conditions_is_refused(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(Bucket, "create", lambda self, name, content: self.write(name, content) or True)
    with pytest.raises(ResourceError, match="does not know If-None-Match"):
        BucketLock(bucket, tmp_path)
