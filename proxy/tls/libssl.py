"""The server's end of one TLS connection over memory buffers: the few libssl calls of the hot path.

pyOpenSSL makes the contexts. Its `Connection` reports "no more data" by an exception, copies record by record and keeps
a weak reference to each object, which costs more than the cryptography of a small record. So this module, and only this
one, calls the same functions through pyOpenSSL's cffi library and returns a status instead. It knows nothing of sites,
signatures or events; the engine does.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from OpenSSL import SSL
from OpenSSL._util import ffi, lib

DONE: Final = 0
WANT_READ: Final = 1
CLOSED: Final = 2
"""The peer sent close_notify."""
FAILED: Final = 3
MORE: Final = 4
"""There may be more to read at once."""

RECORD_BYTES: Final = 16384
_SCRATCH_BYTES: Final = 16 * RECORD_BYTES
WRITE_BYTES: Final = 2 * RECORD_BYTES
"""How much plaintext is encrypted before the ciphertext is taken out: bounds a connection's output buffer, which
OpenSSL never shrinks. Four records would be 10 % faster and cost an idle connection 87 KB instead of 44."""

_SESSION_NAME_TAG: Final = 0xA6

_STATUS: Final = {
    lib.SSL_ERROR_NONE: DONE,
    lib.SSL_ERROR_WANT_READ: WANT_READ,
    lib.SSL_ERROR_WANT_WRITE: WANT_READ,
    lib.SSL_ERROR_ZERO_RETURN: CLOSED,
}


class _Scratch(threading.local):
    """Where OpenSSL puts what is read; per thread, because cffi releases the GIL in a call."""

    def __init__(self) -> None:
        self.buffer = ffi.new("char[]", _SCRATCH_BYTES)


_scratch = _Scratch()


def _required(pointer: Any) -> Any:
    if pointer == ffi.NULL:
        raise MemoryError
    return pointer


class Endpoint:
    """One SSL object. After FAILED the thread's error queue says why, and only `take_output` may follow."""

    __slots__ = ("_context", "_input", "_output", "_ssl")

    def __init__(self, context: SSL.Context) -> None:
        self._context = context
        self._ssl: Any = ffi.gc(_required(lib.SSL_new(context._context)), lib.SSL_free)
        self._input: Any = _required(lib.BIO_new(lib.BIO_s_mem()))
        self._output: Any = lib.BIO_new(lib.BIO_s_mem())
        if self._output == ffi.NULL:
            lib.BIO_free(self._input)
            raise MemoryError
        lib.SSL_set_bio(self._ssl, self._input, self._output)  # the SSL object owns both from here
        lib.SSL_set_accept_state(self._ssl)

    def feed(self, ciphertext: bytes) -> None:
        """Hand over what came from the peer; nothing is processed yet."""
        if ciphertext and lib.BIO_write(self._input, ciphertext, len(ciphertext)) != len(ciphertext):
            raise MemoryError

    def handshake(self) -> int:
        """Go on with the handshake: DONE, WANT_READ, CLOSED or FAILED."""
        result = lib.SSL_do_handshake(self._ssl)
        return DONE if result == 1 else self._status(result)

    def read(self) -> tuple[bytes, int]:
        """Plaintext of all complete records, up to a bound: (data, WANT_READ | MORE | CLOSED | FAILED)."""
        buffer, ssl, read = _scratch.buffer, self._ssl, lib.SSL_read
        total, last = 0, _SCRATCH_BYTES - RECORD_BYTES
        while total <= last:
            count = read(ssl, buffer + total, RECORD_BYTES)
            if count <= 0:
                return ffi.buffer(buffer, total)[:], self._status(count)
            total += count
        return ffi.buffer(buffer, total)[:], MORE

    def write(self, plaintext: Any, offset: int, count: int) -> bool:
        """Encrypt `count` bytes of a `ffi.from_buffer` object; the ciphertext waits for `take_output`."""
        return bool(lib.SSL_write(self._ssl, plaintext + offset, count) == count)

    def take_output(self) -> bytes:
        """Ciphertext for the peer, or b""."""
        buffer, output = _scratch.buffer, self._output
        count = lib.BIO_read(output, buffer, _SCRATCH_BYTES)
        if count <= 0:
            return b""
        data: bytes = ffi.buffer(buffer, count)[:]
        return data if count < _SCRATCH_BYTES else data + self.take_output()

    def shutdown(self) -> None:
        """Send close_notify."""
        lib.SSL_shutdown(self._ssl)

    def switch_context(self, context: SSL.Context) -> None:
        """Use another context's certificates; only from within the server name callback."""
        if context is not self._context:
            _required(lib.SSL_set_SSL_CTX(self._ssl, context._context))
            self._context = context

    def _status(self, result: int) -> int:
        return _STATUS.get(lib.SSL_get_error(self._ssl, result), FAILED)

    def session_name(self) -> bytes | None:
        """The server name of the session that the client resumes (b"" for none), or None where it resumes none.

        libssl has no getter that looks at the session rather than at the ClientHello, but its encoding has the name.
        """
        if lib.SSL_session_reused(self._ssl) != 1:
            return None
        session = lib.SSL_get_session(self._ssl)
        size = lib.i2d_SSL_SESSION(session, ffi.NULL)
        if size <= 0:
            return b""
        buffer = ffi.new("unsigned char[]", size)
        lib.i2d_SSL_SESSION(session, ffi.new("unsigned char **", buffer))
        return name_in_session(ffi.buffer(buffer, size)[:])

    def outcome(self) -> tuple[str, str, str, bool]:
        """Version, cipher suite, key exchange group ("" for none) and "was it resumed", after the handshake."""
        ssl = self._ssl
        return (
            _text(lib.SSL_get_version(ssl)),
            _text(lib.SSL_CIPHER_get_name(lib.SSL_get_current_cipher(ssl))),
            _text(lib.SSL_get0_group_name(ssl)),
            lib.SSL_session_reused(ssl) == 1,
        )


def name_in_session(encoded: bytes) -> bytes:
    """The server name in a DER-encoded SSL_SESSION: the OCTET STRING behind tag [6], or b""."""
    body, _ = _der_value(encoded, 0)
    at = 0
    while at < len(body):
        tag = body[at]
        value, at = _der_value(body, at)
        if tag == _SESSION_NAME_TAG:
            return _der_value(value, 0)[0]
    return b""


def _der_value(data: bytes, at: int) -> tuple[bytes, int]:
    """The value of the element at `at`, and where the next one starts."""
    length, start = data[at + 1], at + 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[at + 2 : start], "big")
    return data[start : start + length], start + length


def _text(characters: Any) -> str:
    return ffi.string(characters).decode() if characters != ffi.NULL else ""
