# Multi-stage: a builder with pip, a final image with Python and the sensor only. Runs as an unprivileged user on a read-only root file
# system; needs no shell, no Docker socket, no capability. Everything from the package index is checked by hash.
#
#   docker build -t harborguard-sensor .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL -v sensor-state:/var/lib/harborguard-sensor \
#     -v ./config.yaml:/etc/harborguard-sensor/config.yaml:ro harborguard-sensor
#
# Both bases are arguments, so that it can be built from a mirror or from a local base (`make image`): BASE needs Python 3.11 or newer as
# /usr/bin/python3 or /usr/local/bin/python3, BUILD_BASE the same one with pip and venv. See docs/deploy.md.
#
# LOCK=slim leaves the SDKs of clouds out: registries of AWS, Google and Azure are then logged in to with user name and password only.
# PIP_OPTIONS=--no-index takes wheels from deploy/wheels alone, where deploy/build-image puts them: the build then needs no network.
ARG BUILD_BASE=docker.io/library/python:3.13-slim-trixie
ARG BASE=docker.io/library/python:3.13-slim-trixie

FROM ${BUILD_BASE} AS build
ARG LOCK=runtime
ARG PIP_OPTIONS=
WORKDIR /build
COPY requirements/build.lock requirements/runtime.lock requirements/slim.lock requirements/
COPY deploy/wheels wheels
RUN python3 -m venv /opt/harborguard-sensor \
 && /opt/harborguard-sensor/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-compile ${PIP_OPTIONS} --find-links wheels \
    --require-hashes -r requirements/build.lock -r requirements/${LOCK}.lock
COPY pyproject.toml README.md ./
COPY sensor sensor
# pip goes last: what runs needs no installer. Of botocore's descriptions of 400 services, those stay that are asked.
RUN /opt/harborguard-sensor/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-compile --no-deps --no-build-isolation . \
 && /opt/harborguard-sensor/bin/python -m pip uninstall -q -y setuptools pip \
 && for data in /opt/harborguard-sensor/lib/python3*/site-packages/botocore/data; do [ ! -d "$data" ] || \
    find "$data" -mindepth 1 -maxdepth 1 -type d ! -name ecr ! -name ecr-public ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin \
      -exec rm -r {} +; done \
 && /opt/harborguard-sensor/bin/python -m compileall -q -j 0 /opt/harborguard-sensor/lib

FROM ${BASE}
LABEL org.opencontainers.image.title="harborguard-sensor" \
      org.opencontainers.image.description="Inventories container registries, matches advisories offline, reports to HarborGuard" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/harborguard-sensor /opt/harborguard-sensor
COPY config.example.yaml /usr/share/harborguard-sensor/config.example.yaml
# a new volume takes this owner over; by number, because the base may know no such user
COPY --chown=10001:10001 deploy/empty /var/lib/harborguard-sensor
ENV PATH=/opt/harborguard-sensor/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/var/lib/harborguard-sensor
USER 10001:10001
VOLUME ["/var/lib/harborguard-sensor"]
EXPOSE 9180
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["harborguard-sensor", "status", "--probe"]
ENTRYPOINT ["harborguard-sensor"]
CMD ["run"]
