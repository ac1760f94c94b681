"""From a config file to everything that can be built before the first fork, or to the list of all that is wrong."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hsm.shared.mtls import Identity, client_context
from hsm.shared.strict_toml import ConfigError
from proxy.base.policy import SigningPolicy
from proxy.config.checks import warnings
from proxy.config.load import load_config, missing_files
from proxy.config.schema import ProxyConfig
from proxy.tls import provider

if TYPE_CHECKING:
    from proxy.tls.contexts import Contexts  # imports cryptography, which must wait for the provider

LONGEST_SOCKET_PATH = 107
"""Of a Unix socket on Linux (unix(7): sun_path)."""


class StartError(Exception):
    """The proxy can't start; `problems` are lines for the user, each with file and reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A config that was proven to work as far as this host can tell."""

    path: Path
    config: ProxyConfig
    contexts: Contexts
    warnings: tuple[str, ...]


def prepare(path: Path) -> Prepared:
    """Read the config, the certificates and the identity towards nodes. Opens no socket.

    Loads the OpenSSL provider, so `cryptography` must not have been imported. Raises StartError with every problem.
    """
    try:
        provider.install()
        config = load_config(path)
    except (ConfigError, provider.ProviderError) as error:
        raise StartError(str(error).splitlines()) from None
    problems = [f"{path}: {problem}" for problem in missing_files(config)] or _identity_problems(config.signing)
    problems += [f"{path}: {problem}" for problem in _socket_problems(config.control.socket)]
    contexts = _contexts(config, path.resolve().parent, problems)
    if problems or contexts is None:
        raise StartError(problems)
    noted = [*warnings(config), *(str(warning) for warning in contexts.warnings)]
    return Prepared(path, config, contexts, tuple(noted))


def signing_context(policy: SigningPolicy) -> ssl.SSLContext:
    """The TLS context of links to nodes. Raises ConfigError."""
    return client_context(Identity(Path(policy.ca), Path(policy.certificate), Path(policy.private_key)))


def _socket_problems(socket: str) -> list[str]:
    """What is wrong with the path of the control socket, "" for none."""
    if not socket:
        return []
    folder = Path(socket).parent
    if len(os.fsencode(socket)) > LONGEST_SOCKET_PATH:
        return [f"control.socket: {socket}: is longer than {LONGEST_SOCKET_PATH} bytes; choose a shorter path"]
    if not folder.is_dir():
        return [f"control.socket: {folder}: no such folder; create it or correct the path"]
    if not os.access(folder, os.W_OK | os.X_OK):
        return [f"control.socket: {folder}: permission denied; let this user write there, or choose another folder"]
    return []


def _identity_problems(policy: SigningPolicy) -> list[str]:
    try:
        signing_context(policy)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def _contexts(config: ProxyConfig, base_dir: Path, problems: list[str]) -> Contexts | None:
    # Imported here because it imports cryptography, and the provider must come first.
    from proxy.tls.contexts import build_contexts
    from proxy.tls.problems import CertificateProblems

    try:
        return build_contexts(config.tls, config.sites, base_dir)
    except CertificateProblems as error:
        problems += str(error).splitlines()
        return None
