"""What is raised while a request is worked on, as the answer to it. Pure."""

from __future__ import annotations

import traceback

from hsm.backends.pkcs11.cryptoki import CryptokiError, LibraryProblem
from hsm.backends.pkcs11.messages import Failed
from hsm.backends.pkcs11.results import Failure, Refused
from hsm.backends.pkcs11.translate import TranslationError


def failed(request_id: int, error: Exception) -> Failed:
    """The answer to a request that ended with this exception."""
    if isinstance(error, CryptokiError):
        return Failed(id=request_id, kind=error.failure, rv=error.rv, call=error.call, detail=str(error))
    return Failed(id=request_id, kind=_kind_of(error), rv=0, call="", detail=_detail_of(error))


def _kind_of(error: Exception) -> Failure:
    if isinstance(error, Refused):
        return error.failure
    # A file that is no library will not become one.
    return Failure.UNFIT if isinstance(error, LibraryProblem) else Failure.BROKEN


def _detail_of(error: Exception) -> str:
    if isinstance(error, Refused | LibraryProblem):
        return error.sentence
    if isinstance(error, TranslationError):
        return str(error)
    # A mistake of this program. Its text might hold what must not be seen; its place does not.
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" at {last[0].filename.rpartition('/')[2]}:{last[0].lineno}" if last else ""
    return f"the token worker failed: {type(error).__name__}{place}"
