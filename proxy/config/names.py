"""DNS names as they stand in a config: whether they are some, and when two are the same. Pure; resolves nothing."""

from __future__ import annotations

import re

MAX_NAME_CHARACTERS = 253
"""A DNS name in text, without the root's dot (RFC 1035 2.3.4)."""
_LABEL = re.compile(r"^(?!-)[a-z0-9_-]{1,63}(?<!-)\Z", re.ASCII)


def is_dns_name(name: str) -> bool:
    """Whether `name` can stand in a certificate as a DNS name, with one leading "*." allowed.

    RFC 1035 2.3.1 and RFC 6125 6.4.3; underscores are let through because they are in use.
    """
    folded = folded_name(name)
    labels = folded.removeprefix("*.").split(".")
    is_address = labels[-1].isdigit()
    return len(folded) <= MAX_NAME_CHARACTERS and not is_address and all(_LABEL.match(label) for label in labels)


def folded_name(name: str) -> str:
    """The form in which two names are compared: lower case, no final dot, international names as A-labels."""
    bare = name.removesuffix(".").lower()
    if bare.isascii():
        return bare
    star, rest = ("*.", bare[2:]) if bare.startswith("*.") else ("", bare)
    try:
        return star + rest.encode("idna").decode("ascii")
    except UnicodeError:
        return bare
