from __future__ import annotations

import copy
import io
import json
import logging
import pickle
from collections.abc import Iterator

import pytest
import structlog

from hsm.shared.logs import Secret, configure, get_logger


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_json_lines_say_when_who_where_and_what() -> None:
    out = io.StringIO()
    logger = get_logger("signing")  # made before configure, follows it
    configure("sealgate-node", fmt="json", level="info", stream=out)
    logger.info("node_up", node="a")
    logger.debug("not_shown")
    (line,) = out.getvalue().splitlines()
    entry = json.loads(line)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {"program": "sealgate-node", "room": "signing", "event": "node_up", "level": "info", "node": "a"}


def test_secrets_never_show() -> None:
    secret = Secret(b"hunter2")
    out = io.StringIO()
    for fmt in ("json", "console"):
        configure("p", fmt="json" if fmt == "json" else "console", level="debug", stream=out)
        get_logger("r").error("x", direct=secret, nested={"a": [secret]})
        try:
            local_secret = "hunter2"
            raise ValueError(len(local_secret))
        except ValueError:
            get_logger("r").exception("crashed")
    texts = [out.getvalue(), repr(secret), str(secret), f"{secret:>20}", "%s" % secret, repr([secret])]  # noqa: UP031
    assert not [text for text in texts if "hunter2" in text]
    assert "[secret]" in out.getvalue()
    assert secret.reveal() == b"hunter2"


def test_secrets_are_not_pickled_or_copied() -> None:
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(Secret("x"))
    with pytest.raises(TypeError, match="can't be pickled"):
        copy.deepcopy(Secret("x"))


def test_libraries_log_in_the_same_shape() -> None:
    out = io.StringIO()
    configure("p", fmt="json", level="info", stream=out)
    logging.getLogger("asyncio").error("task %s failed", "t")
    logging.getLogger("asyncio").info("not shown")
    (line,) = out.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["room"], entry["program"]) == ("task t failed", "asyncio", "p")


def test_line_breaks_in_values_do_not_make_lines() -> None:
    out = io.StringIO()
    configure("p", fmt="json", level="info", stream=out)
    get_logger("r").info("x", text='a\n{"event": "forged"}')
    assert len(out.getvalue().splitlines()) == 1


def test_a_closed_stream_does_not_fail_the_caller() -> None:
    out = io.StringIO()
    configure("p", fmt="json", level="info", stream=out)
    out.close()
    get_logger("r").info("x")
