"""Frames between a node and its token worker: a length (unsigned, 32 bit, big-endian) and that many bytes of msgpack.

Pure. Both sides feed what they read and take whole messages out. A frame that is too long, or is no message, ends the
conversation: after it nothing can be trusted to be a frame.
"""

from __future__ import annotations

import struct
from typing import Generic, TypeVar

import msgspec

from hsm.backends.pkcs11.messages import Answer, Request

T = TypeVar("T")

MAX_FRAME_BYTES = 4 * 1024 * 1024
"""Far above the longest honest message: the list of some thousand keys."""
_LENGTH = struct.Struct(">I")
_encoder = msgspec.msgpack.Encoder()


class FramingError(Exception):
    """The other side sent something that is no frame."""


def frame(message: Request | Answer) -> bytes:
    """A message as it is sent. Raises FramingError for one that is too long."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FramingError(f"a message of {len(body)} bytes is too long for a frame")
    return _LENGTH.pack(len(body)) + body


class FrameReader(Generic[T]):
    """Takes bytes as they come and gives messages as they are complete; holds at most one unfinished frame."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self._rest = b""

    @property
    def is_between_frames(self) -> bool:
        """True where no frame is half here: the place to stop."""
        return not self._rest

    def feed(self, data: bytes) -> list[T]:
        """The messages that `data` completes, in order. Raises FramingError; then feed it no more."""
        data = self._rest + data if self._rest else data
        messages, at, end = [], 0, len(data)
        while end - at >= 4:
            (length,) = _LENGTH.unpack_from(data, at)
            if length > MAX_FRAME_BYTES:
                raise FramingError(f"a frame of {length} bytes was announced; {MAX_FRAME_BYTES} is the limit")
            after = at + 4 + length
            if after > end:
                break
            messages.append(self._decode(data[at + 4 : after]))
            at = after
        self._rest = data[at:]
        return messages

    def _decode(self, body: bytes) -> T:
        try:
            return self._decoder.decode(body)
        except msgspec.MsgspecError as error:
            # The text of the error names fields and types, never values.
            raise FramingError(f"a frame holds no known message: {error}") from None


def request_reader() -> FrameReader[Request]:
    """For the worker."""
    return FrameReader(msgspec.msgpack.Decoder(Request))


def answer_reader() -> FrameReader[Answer]:
    """For the node."""
    return FrameReader(msgspec.msgpack.Decoder(Answer))
