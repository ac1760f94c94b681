"""Log lines of one shape for every program, and the wrapper that keeps secrets out of them.

Lines go to standard error, one write per line. Logging never fails the caller. Call `configure` once per process;
loggers made before it follow it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TextIO, TypeVar, cast

if TYPE_CHECKING:
    import structlog  # loaded by the first logger: it takes longer than many a short-lived process lives

T = TypeVar("T")
Level = Literal["debug", "info", "warning", "error"]


class Secret(Generic[T]):
    """Holds a value that must not be seen: `repr` and `str` are "[secret]", pickling is refused.

    It keeps secrets out of logs, errors and `repr`; it does not wipe memory.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """The value. Every call is a place to review."""
        return self._value

    def __repr__(self) -> str:
        return "[secret]"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "[secret]"

    def __reduce__(self) -> str:
        raise TypeError("a secret can't be pickled")


class _LineLogger:
    """Writes each line in one piece and survives a standard error that is gone."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        stream = self._stream or sys.stderr
        with contextlib.suppress(OSError, ValueError):
            stream.write(message + "\n")
            stream.flush()

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


def configure(program: str, *, fmt: Literal["console", "json"], level: Level, stream: TextIO | None = None) -> None:
    """Set up log lines of this process, including those of the libraries (their warnings and errors).

    `program` stands in every line; `stream` is standard error unless given.
    """

    import structlog

    def add_program(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("program", program)
        return event

    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_program,
    ]
    render = _renderers(fmt, stream)
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_args: _LineLogger(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_foreign(render)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))


def _renderers(fmt: Literal["console", "json"], stream: TextIO | None) -> list[structlog.types.Processor]:
    import structlog

    # Plain tracebacks only: the pretty ones print local variables, and those may be secrets.
    if fmt == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=repr)]
    colors = (stream or sys.stderr).isatty()
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]


def _foreign(render: list[structlog.types.Processor]) -> list[structlog.types.Processor]:
    import structlog

    def name_room(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        record = event.get("_record")
        event.setdefault("room", record.name if isinstance(record, logging.LogRecord) else "library")
        return event

    return [name_room, structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render]


def get_logger(room: str) -> structlog.typing.FilteringBoundLogger:
    """The logger of one room, named as its package: "signing", "node"."""
    import structlog

    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger(room=room))
