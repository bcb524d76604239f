"""Single objects in a bucket on S3, some written only where there is none, which `pyarrow.fs` cannot.

S3 writes an object in full or not at all, and with ``If-None-Match: *`` only where there is none: of two writers one
is refused (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ddcal.config.places import S3Place, parse_s3
from ddcal.errors import BadInput, ResourceError, StoreError
from ddcal.store.s3 import ATTEMPTS, CONNECT_SECONDS, REQUEST_SECONDS, refused_by_s3

MAX_OBJECT = 2**28
"""How large an object may be that is read as a whole, in bytes."""


@dataclass(frozen=True)
class Found:
    """An object's bytes, and the tag by which S3 tells whether it has been written again since."""

    content: bytes
    etag: str


class Bucket:
    """Objects below a prefix of a bucket; the client and its connections may be used by several threads.

    Attributes:
        url: The place, without the URL's options: for messages.
    """

    def __init__(self, place: S3Place, folder: str = "") -> None:
        """Prepare; nothing is connected yet.

        Args:
            place: Bucket, prefix and server.
            folder: A folder below the prefix.
        """
        self._at = place
        self._base = "/".join(part for part in (place.prefix, folder) if part)
        self.url = f"s3://{place.bucket}/{self._base}".rstrip("/")
        self._connected: Any = None

    @classmethod
    def at(cls, url: str, folder: str = "") -> Bucket:
        """Return the objects at an ``s3://`` URL.

        Raises:
            BadInput: if the URL is not of the right form.
        """
        try:
            return cls(parse_s3(url), folder)
        except ValueError as error:
            raise BadInput(f"{url}: {error}") from error

    def where(self, name: str) -> str:
        """Return an object's address, for messages."""
        return f"{self.url}/{name}"

    def create(self, name: str, content: bytes) -> bool:
        """Write an object where there is none; return False where there is one, which stays.

        Raises:
            StoreError: if S3 cannot be reached or refuses; the object may be there all the same.
        """
        return self._put(name, content, IfNoneMatch="*")

    def replace(self, name: str, content: bytes, etag: str) -> bool:
        """Write over an object that is still the one of that tag; return False if it is not.

        Raises:
            StoreError: as `create`.
        """
        return self._put(name, content, IfMatch=etag)

    def write(self, name: str, content: bytes) -> None:
        """Write an object, whatever is there.

        Raises:
            StoreError: as `create`.
        """
        self._put(name, content)

    def read(self, name: str) -> Found | None:
        """Return an object, or None if there is none.

        Raises:
            StoreError: if it cannot be read, or is larger than `MAX_OBJECT`.
        """
        with self._errors("read", name):
            try:
                answer = self._client.get_object(Bucket=self._at.bucket, Key=self._key(name))
            except self._client.exceptions.NoSuchKey:
                return None
            if answer["ContentLength"] > MAX_OBJECT:
                raise StoreError(f"{self.where(name)} is larger than {MAX_OBJECT} bytes")
            return Found(answer["Body"].read(), answer["ETag"])

    def names(self, folder: str) -> dict[str, int]:
        """Return the objects below a folder: name from the base on → bytes, sorted by name.

        Raises:
            StoreError: if they cannot be listed.
        """
        start = len(self._key(""))
        found: dict[str, int] = {}
        with self._errors("read", folder):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._at.bucket, Prefix=self._key(f"{folder}/")):
                found |= {item["Key"][start:]: int(item["Size"]) for item in page.get("Contents", ())}
        return dict(sorted(found.items()))

    def delete(self, name: str) -> None:
        """Remove an object, if it is there.

        Raises:
            StoreError: if S3 cannot be reached or refuses.
        """
        with self._errors("written", name):
            self._client.delete_object(Bucket=self._at.bucket, Key=self._key(name))

    def check(self) -> None:
        """Raise StoreError if the bucket is not there, not reachable or not to be listed with these credentials."""
        with self._errors("read"):
            self._client.list_objects_v2(Bucket=self._at.bucket, Prefix=self._key(""), MaxKeys=1)

    def _put(self, name: str, content: bytes, **condition: str) -> bool:
        from botocore.exceptions import ClientError

        with self._errors("written", name):
            try:
                self._client.put_object(Bucket=self._at.bucket, Key=self._key(name), Body=content, **condition)
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                if condition and (status == 412 or (status == 404 and "IfMatch" in condition and _no_key(error))):
                    return False
                raise
        return True

    def _key(self, name: str) -> str:
        return f"{self._base}/{name}" if self._base else name

    @property
    def _client(self) -> Any:
        if self._connected is None:
            from botocore.config import Config
            from botocore.session import Session

            at, session = self._at, Session()
            self._connected = session.create_client(
                "s3",
                region_name=at.region or session.get_config_variable("region") or "us-east-1",
                endpoint_url=f"{at.scheme}://{at.endpoint_override}" if at.endpoint_override else None,
                use_ssl=at.scheme == "https",
                config=Config(
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=REQUEST_SECONDS,
                    retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                    s3={"addressing_style": "path" if at.endpoint_override else "auto"},
                    request_checksum_calculation="when_required",  # servers other than Amazon's may not know the others
                    response_checksum_validation="when_required",
                ),
            )
        return self._connected

    @contextmanager
    def _errors(self, done: str, name: str = "") -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            yield
        except (BotoCoreError, ClientError, HTTPClientError, OSError) as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise refused_by_s3(self.where(name) if name else self.url, done, text, text) from error


def check_client() -> None:
    """Raise ResourceError, with the command that installs it, if the package that speaks to S3 is missing."""
    if importlib.util.find_spec("botocore") is None:
        raise ResourceError("storage.output: S3 needs the package botocore: pip install 'ddcal[s3]'")


def _no_key(error: Any) -> bool:
    return bool(error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"))
