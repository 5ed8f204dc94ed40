# The image of the service and of its commands: `docker build -t lotmeter .`, then `docker run lotmeter --help`.

# The Python that the tests run with.
FROM python:3.11.13-bookworm AS builder
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# What changes seldom comes first, so that a change of the code builds in seconds.
COPY deploy/image.lock deploy/image.lock
RUN python -m venv /opt/lotmeter \
    && /opt/lotmeter/bin/pip install --require-hashes --no-deps -r deploy/image.lock
COPY requirements.lock requirements.lock
# What builds it is pinned too, in the lock of all extras.
RUN awk '/^[a-z]/ { wanted = /^(hatchling|packaging|pathspec|pluggy|trove-classifiers|setuptools|mypy|mypy-extensions|ast-serialize|librt|typing-extensions)==/ } wanted' \
    requirements.lock > backend.lock \
    && pip install --require-hashes --no-deps -r backend.lock
COPY pyproject.toml README.md ./
COPY metering metering
COPY consumer consumer
COPY migrations migrations
COPY deploy/compiling.py deploy/compiling.py
RUN HATCH_BUILD_HOOK_ENABLE_CUSTOM=true pip wheel --no-deps --no-build-isolation --wheel-dir wheels . \
    && /opt/lotmeter/bin/pip install --no-deps wheels/*.whl \
    && /opt/lotmeter/bin/pip uninstall --yes pip setuptools

FROM python:3.11.13-slim-bookworm
COPY --from=builder /opt/lotmeter /opt/lotmeter
ENV PATH=/opt/lotmeter/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LOTMETER_HTTP_ADDRESS=0.0.0.0:9464
# Nobody in particular: it needs no file but those it reads, and runs with a read-only root.
USER 10001:10001
EXPOSE 9464
# That it answers says that the event loop turns; whoever hangs in another way ends by itself.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/livez', timeout=4)"]
ENTRYPOINT ["lotmeter"]
CMD ["run"]
