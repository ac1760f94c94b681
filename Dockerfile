# syntax=docker/dockerfile:1
# One image for every program: `proxy run`, `node run`, `vault init`, `certs dev`.

FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libssl-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements.lock ./
RUN python -m venv /opt/sealgate \
    && /opt/sealgate/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY proxy ./proxy
COPY hsm ./hsm
COPY certs ./certs
RUN /opt/sealgate/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
    && /opt/sealgate/bin/sealgate --version

FROM python:3.11-slim-bookworm
# The same interpreter at the same path as in the build stage, so that the virtual environment works as copied.
COPY --from=build /opt/sealgate /opt/sealgate
RUN groupadd --system --gid 10001 sealgate \
    && useradd --system --uid 10001 --gid sealgate --home-dir /var/lib/sealgate --create-home --shell /usr/sbin/nologin sealgate \
    && mkdir -p /etc/sealgate /run/sealgate /var/lib/sealgate-proxy \
    && chown sealgate:sealgate /run/sealgate /var/lib/sealgate-proxy
ENV PATH=/opt/sealgate/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER sealgate
WORKDIR /var/lib/sealgate
EXPOSE 8443 9443
# The proxy's health by default; a node overrides SEALGATE_HEALTH_URL with its own ops address.
ENV SEALGATE_HEALTH_URL=http://127.0.0.1:9443/healthz
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(os.environ['SEALGATE_HEALTH_URL'], timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sealgate"]
CMD ["proxy", "run", "--config", "/etc/sealgate/proxy.toml"]
