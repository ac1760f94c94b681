"""A vault opened by a secret key in a PKCS#11 token: from its URI to the `Mac` that the store asks.

The key stays in the token and computes HMAC-SHA-256 there (CKM_SHA256_HMAC), in a token worker that lives for one
question. Knows no store and no node.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hsm.backends.pkcs11.blocking_worker import BlockingWorker
from hsm.backends.pkcs11.messages import Mac, ObjectMatch, Signed
from hsm.backends.pkcs11.pin import PinProblem, source_of_uri
from hsm.backends.pkcs11.problems import WorkerProblem
from hsm.backends.pkcs11.settings import TokenSettings
from hsm.backends.pkcs11.uri import UriProblem, parse_uri
from hsm.backends.vault.errors import VaultError, VaultReason
from hsm.store.master_key import TokenKey

MAC_BYTES = 32
MAC_TIMEOUT_S = 30.0
_EXAMPLE = "pkcs11:token=hsm;object=sealgate-vault?module-path=/usr/lib/hsm.so&pin-source=file:/etc/sealgate/pin"


def token_key(uri: str, environment: Mapping[str, str], *, make: bool = False) -> TokenKey:
    """What opens a vault by the secret key that `uri` (RFC 7512) names by its label; `environment` is the library's.

    With `make`, a key that is missing is made: sensitive, not extractable. Raises VaultError for a URI that does not
    name library, token and key; `TokenKey.mac` raises VaultError when the token can't be asked.
    """
    label, settings = _read(uri, environment)

    def mac(data: bytes) -> bytes:
        try:
            with BlockingWorker.open(settings) as worker:
                answer = worker.ask(Mac(id=0, label=label, data=data, make=make), MAC_TIMEOUT_S)
        except WorkerProblem as problem:
            sentence = f"the wrapping key {label!r} can't be used: {problem.sentence}"
            raise VaultError(VaultReason.UNAVAILABLE, sentence) from None
        if not isinstance(answer, Signed) or len(answer.signature) != MAC_BYTES:
            sentence = f"the wrapping key {label!r} gave no HMAC-SHA-256; is it a generic secret key?"
            raise VaultError(VaultReason.UNAVAILABLE, sentence)
        return answer.signature

    return TokenKey(label, mac)


def _read(text: str, environment: Mapping[str, str]) -> tuple[str, TokenSettings]:
    try:
        uri = parse_uri(text)
        pin = source_of_uri(uri.pin_source) if uri.pin_source is not None else None
    except (UriProblem, PinProblem) as problem:
        raise VaultError(VaultReason.INVALID, f"the wrapping key: {problem.sentence}") from None
    label = uri.objects.label
    if not label:
        raise _incomplete("does not name the key", "object=LABEL")
    if uri.objects.id is not None:
        raise VaultError(VaultReason.INVALID, "the wrapping key's URI names its key by `object`; leave `id` out")
    if uri.module_path is None:
        raise _incomplete("does not name the library", "?module-path=/path/to/library.so")
    if not Path(uri.module_path).is_file():
        sentence = f"the wrapping key's library {uri.module_path} does not exist; install it, or correct `module-path`"
        raise VaultError(VaultReason.INVALID, sentence)
    settings = TokenSettings(
        name=uri.token.token or "wrapping-key",
        module=Path(uri.module_path),
        token=uri.token,
        objects=ObjectMatch(label=label),
        pin=pin,
        environment=environment,
        concurrency=1,
    )
    return label, settings


def _incomplete(what: str, missing: str) -> VaultError:
    return VaultError(VaultReason.INVALID, f"the wrapping key's URI {what}; add `{missing}`, such as {_EXAMPLE}")
