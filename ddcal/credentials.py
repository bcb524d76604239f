"""Passwords and keys inside addresses: found, taken out, and masked in whatever is said or written."""

from __future__ import annotations

import re
from urllib.parse import unquote

MASK = "***"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:(?![A-Za-z][A-Za-z0-9+.-]*://)\S)*")
_PARTS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_NAMED = re.compile(
    r"(?P<name>[?&;][\w.-]*(?:passw|pwd|secret|token|access_?key|api_?key|credential|signature|odbc_connect)[\w.-]*=)"
    r"(?P<value>[^&;\s'\"]+)",
    re.IGNORECASE,
)
"""An option of an address whose value is nobody's business, as in ``?password=…`` or ``?access_key=…``."""


def masked(text: str, *known: str) -> str:
    """Return a text in which every password and key of an address is ``***``.

    Args:
        text: Any text, for example another library's error.
        known: Addresses whose passwords are masked wherever they stand, also alone.
    """
    for secret in [secret for address in known for secret in _secrets(address) if len(secret) > 2]:
        text = text.replace(secret, MASK)
    return _ADDRESS.sub(lambda found: _masked_address(found[0]), text)


def has_credentials(address: str) -> bool:
    """Return whether an address holds a password or key; a user's name alone is none, except with http and s3."""
    return without_credentials(address) != address


def without_credentials(address: str) -> str:
    """Return an address without its password and keys: what may be written, and what it is recognised by."""
    scheme, user, _, rest = _split(address)
    if scheme is None:
        return address
    rest = _NAMED.sub(lambda found: found["name"][0], rest)
    rest = re.sub(r"\?&+", "?", re.sub(r"&{2,}", "&", rest)).rstrip("?&;") if _NAMED.search(address) else rest
    keeps = user is not None and not _alone(scheme)
    return f"{scheme}://{f'{user}@' if keeps else ''}{rest}"


def _masked_address(address: str) -> str:
    scheme, user, password, rest = _split(address)
    if scheme is None:
        return address
    rest = _NAMED.sub(lambda found: found["name"] + MASK, rest)
    if user is None:
        return f"{scheme}://{rest}"
    if password is None:
        return f"{scheme}://{MASK if _alone(scheme) else user}@{rest}"
    return f"{scheme}://{user}:{MASK}@{rest}"


def _secrets(address: str) -> list[str]:
    scheme, user, password, rest = _split(address)
    found = [named["value"] for named in _NAMED.finditer(rest)]
    found += [password] if password else [user] if user and scheme and _alone(scheme) else []
    return sorted({said for one in found for said in (one, unquote(one)) if said}, key=len, reverse=True)


def _alone(scheme: str) -> bool:
    """Whether a user's name without a password is a token or key, or nothing that such an address needs."""
    return scheme.lower() in ("http", "https", "s3")


def _split(address: str) -> tuple[str | None, str | None, str | None, str]:
    """Return scheme, user, password and the rest; None for what is not there.

    Passwords with an unescaped ``/``, ``?``, ``#`` or ``@`` are recognised too, as databases' drivers take them.
    """
    parts = _PARTS.fullmatch(address)
    if parts is None:
        return None, None, None, address
    scheme, rest = parts["scheme"], parts["rest"]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        said = authority.rpartition("@")[0]
    elif "@" in rest and re.match(r"[^/?#:\[]+:(?!\d*(?:[/?#]|$))", rest):  # what follows the colon is no port
        said = rest.partition("@")[0]
    else:
        return scheme, None, None, rest
    user, colon, password = said.partition(":")
    return scheme, user, password if colon else None, rest[len(said) + 1 :]
