"""Passwords in addresses: which are found, what is left without them, and that a text with one shows none."""

import pytest

from ddcal.credentials import has_credentials, masked, without_credentials
from ddcal.errors import BadInput, StoreError, TrackingError

WITH = [
    ("http://me:S3cret@host:5000/x", "http://host:5000/x", "http://me:***@host:5000/x"),
    ("https://S3cret@host", "https://host", "https://***@host"),
    ("postgresql://me:S3cret@host/db", "postgresql://me@host/db", "postgresql://me:***@host/db"),
    ("postgresql://me:S3/cr?t@host/db", "postgresql://me@host/db", "postgresql://me:***@host/db"),
    ("postgresql+psycopg2://me:S3@cret@host:5432/db", *["postgresql+psycopg2://me{}@host:5432/db"] * 2),
    ("mysql://host/db?user=me&password=S3cret&ssl=1", "mysql://host/db?user=me&ssl=1", None),
    ("s3://bucket/p?access_key=AKIA&secret_key=S3cret", "s3://bucket/p", None),
    ("s3://AKIA:S3cret@bucket/p", "s3://bucket/p", "s3://AKIA:***@bucket/p"),
]
WITHOUT = [
    "http://host:5000/a@b",
    "http://[::1]:5000/a@b",
    "postgresql://me@host/db",
    "sqlite:////data/a b:c@d?e#f/mlflow.db",
    "databricks://scope:prefix",
    "s3://bucket/p?endpoint_override=host:9000&scheme=http",
    "/data/a:b@c",
    "none",
]


@pytest.mark.parametrize(("address", "plain", "shown"), WITH)
def test_an_address_with_a_password(address, plain, shown):
    assert has_credentials(address)
    assert without_credentials(address) == plain.format("") and not has_credentials(plain.format(""))
    said = masked(f"cannot reach '{address}', sorry")
    assert "***" in said and not {"S3cret", "S3@cret", "S3/cr?t", "AKIA&"} & set(said.replace("'", " ").split())
    assert "S3" not in said and said.endswith(", sorry")
    if shown is not None:
        assert masked(address) == shown.format(":***")


@pytest.mark.parametrize("address", WITHOUT)
def test_an_address_without_one_stays_as_it_is(address):
    assert not has_credentials(address) and masked(address) == without_credentials(address) == address


def test_several_in_one_text_and_a_password_that_stands_alone():
    text = "a://x,b://me:S3cret@h failed; retried c://me:S3cret@h: invalid port 'S3cret@h'"
    assert masked(text) == "a://x,b://me:***@h failed; retried c://me:***@h: invalid port 'S3cret@h'"
    assert "S3cret" not in masked(text, "c://me:S3cret@h")
    assert masked("user me: a%b", "c://me:a%25b@h") == "user me: ***"


@pytest.mark.parametrize("error", [BadInput, StoreError, TrackingError])
def test_no_error_of_ours_holds_one(error):
    assert str(error("http://me:S3cret@host is not there")) == "http://me:***@host is not there"
