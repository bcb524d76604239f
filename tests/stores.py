"""The two kinds of artefact store for tests: a folder, and a bucket on moto's S3 server on the loopback interface."""

import os
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from ddcal.pipeline import open_store

AWS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@contextmanager
def moto_server():
    """Start moto's S3 on a free port; yields its ``host:port``."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


class Place:
    """A store of a kind, and what a test does to its files behind the store's back."""

    def __init__(self, kind, where, cache):
        self.kind, self.where, self.cache = kind, where, cache

    def open(self, cache="own"):
        """The store; on S3 with a cache of its own for each name, as on another machine."""
        return open_store(self.where, self.cache / cache if self.kind != "folder" else None)

    def names(self, below=""):
        """Every file below a folder of the store."""
        return (
            [item.name for item in self.open().listing(below)]
            if below
            else [
                name
                for folder in ("distill", "train", "calibrate", "evaluate", "tmp", "partial", "damaged", "references")
                for name in self.names(folder)
            ]
        )

    def name(self, stage, key, name):
        """The name of an entry's file in the store."""
        return next(n for n in self.names(f"{stage}/{key}") if n.endswith(f"/{name}"))

    def change(self, name, change):
        """Replace a file's bytes by ``change(bytes)``; None removes it."""
        store = self.open()
        content = change(store.read(name))
        if content is None:
            store.delete(name)
        elif self.kind == "s3":
            store.write(name, content)
        else:
            (Path(store.root) / name).write_bytes(content)


def make_place(kind, folder, request):
    """A new place below ``folder``: ``folder``, ``cached`` (a folder read through a cache) or ``s3``."""
    if kind != "s3":
        return Place(kind, folder / "store", folder / "caches")
    endpoint = request.getfixturevalue("s3_endpoint")
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    make_bucket(endpoint, bucket)
    return Place(
        kind, f"s3://{bucket}/some/prefix?endpoint_override={endpoint}&scheme=http&region=us-east-1", folder / "caches"
    )


def make_bucket(endpoint, bucket):
    from pyarrow.fs import S3FileSystem

    S3FileSystem(endpoint_override=endpoint, scheme="http", region="us-east-1", allow_bucket_creation=True).create_dir(
        bucket
    )


KINDS = pytest.mark.parametrize("place", ["folder", "cached", "s3"], indirect=True)
KINDS_OF_STUDIES = pytest.mark.parametrize(
    "place", ["folder", pytest.param("cached", marks=pytest.mark.slow), "s3"], indirect=True
)
