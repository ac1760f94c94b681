"""The numbers of the protocol: opcodes, item tags, lengths and bounds (docs/protocol.md has the same tables).

Plain integers, not enums, because they are compared and looked up for every item of every frame. Knows no bytes on
the wire; `codec` does. Error codes are in `errors`, signing opcodes in `schemes`.
"""

from __future__ import annotations

from typing import Final

from hsm.wire.schemes import SCHEME_BY_OPCODE

MAJOR: Final = 1
MINOR: Final = 0
HEADER_BYTES: Final = 8
MAX_BODY_BYTES: Final = 0xFFFF
SKI_BYTES: Final = 20

NOTICE_ID: Final = 0
"""The request id of frames that a node sends unasked. A Sealgate client never uses it for a request."""

# Items of Keyless SSL v1 that Sealgate reads or writes. All others are skipped.
TAG_CERTIFICATE_DIGEST: Final = 0x01
TAG_SERVER_NAME: Final = 0x02
TAG_CLIENT_IP: Final = 0x03
TAG_SKI: Final = 0x04
TAG_CERTIFICATE_ID: Final = 0x06
TAG_OPCODE: Final = 0x11
TAG_PAYLOAD: Final = 0x12
TAG_PADDING: Final = 0x20

# Extension items.
TAG_DEADLINE: Final = 0x80
TAG_RETRY_AFTER: Final = 0x81
TAG_QUEUE_DEPTH: Final = 0x82
TAG_DETAIL: Final = 0x83
TAG_KEYS: Final = 0x84
TAG_REVISION: Final = 0x85
TAG_MORE: Final = 0x86
TAG_TRACE: Final = 0x87
TAG_MESSAGE: Final = 0x88

EXTENSION_TAGS: Final = frozenset(range(TAG_DEADLINE, TAG_MESSAGE + 1))

ITEM_LENGTHS: Final[dict[int, tuple[int, ...]]] = {
    TAG_CLIENT_IP: (4, 16),
    TAG_SKI: (SKI_BYTES,),
    TAG_OPCODE: (1,),
    TAG_DEADLINE: (4,),
    TAG_RETRY_AFTER: (4,),
    TAG_QUEUE_DEPTH: (4,),
    TAG_REVISION: (8,),
    TAG_MORE: (1,),
}
"""Allowed lengths of items that have a fixed form."""

# Opcodes of Keyless SSL v1 besides the signing ones.
OP_PING: Final = 0xF1
OP_PONG: Final = 0xF2
OP_RESPONSE: Final = 0xF0
OP_ERROR: Final = 0xFF
ANSWER_OPCODES: Final = frozenset((OP_RESPONSE, OP_PONG, OP_ERROR))

# Extension opcodes.
OP_LIST_KEYS: Final = 0x80
OP_KEYS_CHANGED: Final = 0x81
OP_DRAINING: Final = 0x82
OP_CANCEL: Final = 0x83

NOTICE_OPCODES: Final = frozenset((OP_KEYS_CHANGED, OP_DRAINING))
EXTENSION_OPCODES: Final = frozenset((OP_LIST_KEYS, OP_KEYS_CHANGED, OP_DRAINING, OP_CANCEL))
FIRST_EXTENSION: Final = 0x80
LAST_EXTENSION: Final = 0xBF
"""Opcodes and tags in this range belong to Sealgate's extensions, also those not defined yet."""

PAYLOAD_BYTES: Final[dict[int, int | None]] = {
    opcode: scheme.payload_bytes for opcode, scheme in SCHEME_BY_OPCODE.items()
}
"""Length of the payload by signing opcode; None where any length is allowed."""

MAX_NAME_BYTES: Final = 255
MAX_DETAIL_BYTES: Final = 512
MAX_LABEL_BYTES: Final = 255
MAX_MESSAGE_BYTES: Final = 16_384
"""Longest message beside a digest. What TLS signs is far shorter: 130 to 162 bytes for 1.3, a few hundred for 1.2."""
MAX_PAGE_BYTES: Final = 32_768
"""Longest key page Sealgate writes; a receiver takes any page that fits a body."""
MAX_KEYS: Final = 100_000
"""Most keys a client takes from one node."""
MAX_U32: Final = 0xFFFF_FFFF
