"""The whole test process has the key provider: it must be there before anything imports `cryptography`."""

from __future__ import annotations

from proxy.tls import provider

provider.install()
