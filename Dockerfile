# Multi-stage: a builder with pip, a final image with Python and the sensor only. Runs as an unprivileged user on a read-only root file
# system; needs no shell, no Docker socket, no capability. Both bases are arguments, so that it can be built from a local base:
#
#   docker build -t harborguard-sensor .
#   docker run --read-only --tmpfs /tmp -v sensor-state:/var/lib/harborguard-sensor \
#     -v ./config.yaml:/etc/harborguard-sensor/config.yaml:ro harborguard-sensor
#
# BASE needs python3 >= 3.11 as /usr/bin/python3 or /usr/local/bin/python3; BUILD_BASE also pip and venv.
ARG BUILD_BASE=docker.io/library/python:3.13-slim-trixie
ARG BASE=docker.io/library/python:3.13-slim-trixie

FROM ${BUILD_BASE} AS build
WORKDIR /build
COPY requirements/runtime.lock requirements/
RUN python3 -m venv /opt/harborguard-sensor \
 && /opt/harborguard-sensor/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/runtime.lock
COPY pyproject.toml README.md ./
COPY sensor sensor
RUN /opt/harborguard-sensor/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps . \
 && /opt/harborguard-sensor/bin/python -m compileall -q /opt/harborguard-sensor \
 && /opt/harborguard-sensor/bin/python -m pip uninstall -q -y pip

FROM ${BASE}
COPY --from=build /opt/harborguard-sensor /opt/harborguard-sensor
COPY config.example.yaml /usr/share/harborguard-sensor/config.example.yaml
# numeric ids: the final base may have no /etc/passwd tools
COPY --chown=10001:10001 deploy/empty /var/lib/harborguard-sensor
ENV PATH=/opt/harborguard-sensor/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
VOLUME ["/var/lib/harborguard-sensor"]
EXPOSE 9180
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["harborguard-sensor", "status", "--probe"]
ENTRYPOINT ["harborguard-sensor"]
CMD ["run", "--config", "/etc/harborguard-sensor/config.yaml"]
