"""The Python side of Sealgate's OpenSSL provider (proxy/native/)."""

from collections.abc import Callable

def set_upcall(function: Callable[[bytes, str, bytes], bytes] | None, /) -> Callable[[bytes, str, bytes], bytes] | None:
    """Set the function (SKI, scheme name, message) -> signature of the whole process, and return the one before.

    None: signatures fail.
    """

def take_error() -> BaseException | None:
    """Return and forget what the upcall last raised in this thread."""
