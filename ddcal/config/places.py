"""Where an artefact store lies (a folder, or a bucket and prefix on S3), and names that an output root needs itself.

Pure text: nothing is opened here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import parse_qsl, unquote, urlsplit

from ddcal.config.problems import suggestion
from ddcal.credentials import has_credentials, without_credentials

OPTIONS = ("endpoint_override", "scheme", "region")
FORM = "s3://BUCKET/PREFIX?endpoint_override=HOST:PORT&scheme=https&region=REGION (all behind the bucket is optional)"
NO_CREDENTIALS = "credentials do not belong in a study: they come from the environment or ~/.aws"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
_ENDPOINT = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")


@dataclass(frozen=True)
class S3Place:
    """A place on S3.

    Attributes:
        bucket: The bucket.
        prefix: The folder in it, without slashes at its ends; may be empty.
        endpoint_override: ``host`` or ``host:port`` of a server that is not Amazon's, or None.
        scheme: ``https`` or ``http``.
        region: The bucket's region; None takes AWS_REGION, the profile's, or us-east-1.
    """

    bucket: str
    prefix: str
    endpoint_override: str | None = None
    scheme: str = "https"
    region: str | None = None


OF_THE_ROOT = {
    "store": "the artefact store",
    "mlflow.db": "MLflow's database",
    "mlartifacts": "MLflow's artefacts",
    "index.html": "the page of ddcal report paper",
    "figures": "the figures of ddcal report paper",
    "tables": "the tables of ddcal report paper",
}
"""What lies in an output root beside the studies' folders."""


def taken_by(name: str) -> str | None:
    """Return what in an output root would lie where a study of this name does, or None.

    Small and capital letters count as the same: they are on many disks, and a root may be copied to one.
    """
    lower = name.casefold()
    return OF_THE_ROOT["mlflow.db"] if lower.startswith("mlflow.db-") else OF_THE_ROOT.get(lower)


def is_url(place: str) -> bool:
    """Return whether ``place`` is a URL rather than a folder."""
    return "://" in place


def tracking_problem(uri: str | None) -> str | None:
    """Return what is wrong with a tracking URI that holds a password, and where the password goes; None if it has none.

    What a study says is written to its folder, its ledger and MLflow, for good.
    """
    if uri is None or not has_credentials(uri):
        return None
    plain = without_credentials(uri)
    where = "MLFLOW_TRACKING_URI (the same address with its password)"
    if plain.startswith(("http:", "https:")):
        where = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    return f"a password does not belong in a study: write {plain}, and put the rest into the environment: {where}"


def variable_of(address: str) -> str | None:
    """Return the environment's variable that an address stands in, for ``$NAME``; None for an address itself."""
    found = _VARIABLE.fullmatch(address)
    return None if found is None else found[1] or found[2]


def webhook_problem(address: str, allow_http: bool, *, in_study: bool) -> str | None:
    """Return what is wrong with the address of a webhook; None if nothing is. The address itself is not repeated.

    Args:
        address: A URL, or in a study ``$NAME``.
        allow_http: Whether plain http may leave this machine.
        in_study: Whether a study names it, which is written down for good: it must hold no secret.
    """
    if in_study and variable_of(address) is not None:
        return None
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        return "must be an address, https://HOST/PATH" + (", or $NAME of the environment" if in_study else "")
    if in_study and (parts.query or parts.fragment or "@" in parts.netloc):
        return (
            "an address with a user, a password or ?options may hold a secret, and a study is written down for good: "
            "put it into the environment, and write $NAME"
        )
    if parts.scheme == "http" and not allow_http and not _is_loopback(host):
        return "plain http is readable on its way: use https, or notify.allow_http: true"
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_s3(url: str) -> S3Place:
    """Return what an ``s3://`` URL says.

    Raises:
        ValueError: naming the part that is wrong and the form that is right.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"not a URL ({error}); the form is {FORM}") from error
    if parts.scheme != "s3":
        raise ValueError(f"{parts.scheme}:// is not supported: give a folder, or {FORM}")
    if "@" in parts.netloc:
        raise ValueError(NO_CREDENTIALS)
    if not _BUCKET.fullmatch(parts.netloc):
        raise ValueError(
            f"{parts.netloc!r} is not a bucket's name (3 to 63 of a-z, 0-9, '.' and '-'); the form is {FORM}"
        )
    if parts.fragment:
        raise ValueError(f"#{parts.fragment} means nothing here; the form is {FORM}")
    prefix = unquote(parts.path).strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
        raise ValueError(f"the prefix {prefix!r} has an empty part, '.' or '..'")
    options: dict[str, str] = {}
    if has_credentials(url):
        raise ValueError(NO_CREDENTIALS)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in OPTIONS:
            raise ValueError(f"unknown option {name!r}{suggestion(name, OPTIONS)} (the options: {', '.join(OPTIONS)})")
        if name in options:
            raise ValueError(f"the option {name} is given twice")
        options[name] = value
    if options.get("scheme", "https") not in ("http", "https"):
        raise ValueError(f"scheme {options['scheme']!r} must be http or https")
    if "endpoint_override" in options and not _ENDPOINT.fullmatch(options["endpoint_override"]):
        raise ValueError(
            f"endpoint_override {options['endpoint_override']!r} must be HOST or HOST:PORT, without http:// or a path"
        )
    if options.get("region") == "":
        raise ValueError("region is empty: name one or leave it out")
    return S3Place(parts.netloc, prefix, **options)
