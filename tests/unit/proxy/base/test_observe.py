"""The observer does nothing by itself, and the metrics count everything that it can hear."""

from __future__ import annotations

import inspect

from proxy.base.observe import ProxyObserver
from proxy.run.observer import PrometheusObserver


def methods() -> list[str]:
    return [name for name, member in inspect.getmembers(ProxyObserver, inspect.isfunction) if not name.startswith("_")]


def test_metrics_hear_everything() -> None:
    deaf = [name for name in methods() if getattr(PrometheusObserver, name) is getattr(ProxyObserver, name)]
    assert deaf == []


def test_plain_observer_is_silent() -> None:
    observer = ProxyObserver()
    for name in methods():
        method = getattr(observer, name)
        assert method(*[None] * _positional(method), **_keywords(method)) is None


def _positional(method: object) -> int:
    parameters = inspect.signature(method).parameters.values()  # type: ignore[arg-type]
    return sum(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)


def _keywords(method: object) -> dict[str, None]:
    parameters = inspect.signature(method).parameters.values()  # type: ignore[arg-type]
    return {parameter.name: None for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
