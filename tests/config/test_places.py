"""What an ``s3://`` URL of a study says."""

import pytest

from ddcal.config import StudyConfig
from ddcal.config.checks.study import check_study
from ddcal.config.places import S3Place, is_url, parse_s3, taken_by


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://abc", S3Place("abc", "")),
        ("s3://abc/", S3Place("abc", "")),
        ("s3://my.bucket-1/some/prefix/", S3Place("my.bucket-1", "some/prefix")),
        ("s3://abc/a%20b?region=eu-west-1", S3Place("abc", "a b", region="eu-west-1")),
        (
            "s3://abc/x?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1",
            S3Place("abc", "x", "127.0.0.1:9000", "http", "us-east-1"),
        ),
        ("s3://abc?endpoint_override=[::1]:9000", S3Place("abc", "", "[::1]:9000")),
    ],
)
def test_a_url_says_bucket_prefix_and_server(url, place):
    assert is_url(url) and parse_s3(url) == place
    values = {"name": "x", "objectives": {"val/nll": "min"}, "storage": {"store": url, "cache": "~/cache"}}
    assert StudyConfig.model_validate(values).storage.store == url


@pytest.mark.parametrize("place", ["runs/store", "/s3/store", "~/store", "s3:/store"])
def test_a_folder_is_none(place):
    assert not is_url(place)


@pytest.mark.parametrize("name", ["store", "STORE", "mlflow.db", "mlflow.db-wal", "MLartifacts", "tables"])
def test_what_lies_in_an_output_root_is_no_study_s_name(name):
    assert taken_by(name) and taken_by(f"a-{name}") is None
    values = {"name": name, "objectives": {"val/nll": "min"}}
    (problem,) = check_study(StudyConfig.model_validate(values))
    assert problem.path == "name" and f"cannot be called {name!r}" in problem.message
