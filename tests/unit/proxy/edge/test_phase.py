from __future__ import annotations

from proxy.edge.phase import Phase


def test_what_may_still_be_sent_to_comes_before_what_may_not() -> None:
    assert Phase.HANDSHAKING < Phase.OPEN < Phase.LINGERING < Phase.CLOSED
