# One image for all processes: `stepwell operator`, `gateway`, `worker`, `migrate`. No ENTRYPOINT: the command says which.
# Every package is a wheel whose hash the lock names; nothing is compiled. tests/acceptance/test_image.py carries out these
# steps in a plain folder where there is no Docker: keep to ARG, ENV, WORKDIR, COPY, RUN.
ARG PYTHON=3.13

FROM docker.io/library/python:${PYTHON}-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements-build.lock requirements-runtime.lock ./
RUN python -m venv --without-pip /opt/stepwell \
 && python -m venv --without-pip /opt/build \
 && python -m pip --python /opt/stepwell/bin/python install --require-hashes --only-binary :all: -r requirements-runtime.lock \
 && python -m pip --python /opt/build/bin/python install --require-hashes --only-binary :all: -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY core core
COPY operator operator
COPY gateway gateway
COPY worker worker
COPY cli cli
COPY migrations migrations
RUN /opt/build/bin/python -m hatchling build -t wheel -d /src/dist \
 && python -m pip --python /opt/stepwell/bin/python install --no-deps --no-index /src/dist/*.whl

FROM docker.io/library/python:${PYTHON}-slim-trixie
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Stepwell" \
      org.opencontainers.image.description="Kubernetes-native workflow automation: operator, gateway, worker and migrations" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The user id has no name and no home; kopf and the Kubernetes client do not start where they find neither.
ENV PATH=/opt/stepwell/bin:/usr/local/bin:/usr/bin:/bin HOME=/ USER=stepwell PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build --chown=0:0 /opt/stepwell /opt/stepwell
USER 10001:10001
WORKDIR /
CMD ["stepwell", "--help"]
