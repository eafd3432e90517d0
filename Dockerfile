# One image for every role; the command says which: up, gateway, control, approach1, approach2.
FROM python:3.12-slim AS build
WORKDIR /src
COPY requirements/runtime.lock pyproject.toml README.md LICENSE ./
RUN python -m venv /opt/crossfade \
 && /opt/crossfade/bin/pip install --no-cache-dir --require-hashes -r runtime.lock
COPY gateway gateway
COPY backends backends
COPY config config
RUN /opt/crossfade/bin/pip install --no-cache-dir "setuptools>=77" \
 && /opt/crossfade/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.12-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends git ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --create-home --home-dir /var/lib/crossfade crossfade
COPY --from=build /opt/crossfade /opt/crossfade
ENV PATH=/opt/crossfade/bin:$PATH \
    CROSSFADE_DATA_DIR=/var/lib/crossfade/data \
    PYTHONUNBUFFERED=1
USER crossfade
WORKDIR /var/lib/crossfade
VOLUME /var/lib/crossfade
EXPOSE 8080 8081 8082
# Of the gateway and of `up`; the other roles answer /healthz on the port that they are given.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD \
  python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8082/healthz', timeout=2)"
ENTRYPOINT ["crossfade"]
CMD ["up", "--host", "0.0.0.0"]
