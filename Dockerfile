# The service on a CPU (OpenVINO). Build it in a clone of the repository:
#   docker build --tag streamclf .
# docs/containers.md says how to run it. docs/development/containers.md lists what was checked without Docker.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY engines engines
COPY streamclf streamclf
# Only wheels, so no compiler is needed. The headless OpenCV has the same modules and needs no libraries of a desktop.
RUN python3 -m venv --without-pip /opt/streamclf
RUN python3 -m pip --python /opt/streamclf/bin/python install --no-cache-dir --only-binary=:all: ".[mqtt,web]"
RUN python3 -m pip --python /opt/streamclf/bin/python uninstall --yes opencv-python \
    && python3 -m pip --python /opt/streamclf/bin/python install --no-cache-dir --only-binary=:all: opencv-python-headless

FROM ${BASE}
# A fixed number, so that the owner of a bind-mounted folder can be set before the first start.
RUN groupadd --gid 10001 streamclf \
    && useradd --uid 10001 --gid streamclf --no-create-home --home-dir /var/lib/streamclf \
        --shell /usr/sbin/nologin streamclf \
    && install --directory --owner streamclf --group streamclf --mode 0750 /var/lib/streamclf /var/cache/streamclf \
    && install --directory /etc/streamclf
COPY --from=build /opt/streamclf /opt/streamclf
ENV PATH=/opt/streamclf/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    STREAMCLF_CACHE=/var/cache/streamclf
USER 10001:10001
WORKDIR /var/lib/streamclf
VOLUME ["/var/lib/streamclf", "/var/cache/streamclf"]
STOPSIGNAL SIGTERM
# Asks the service itself, so that a service that hangs is unhealthy, too.
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 \
    CMD ["streamclf", "status", "tcp://127.0.0.1:5555", "--json", "--timeout", "5"]
ENTRYPOINT ["streamclf"]
CMD ["run", "/etc/streamclf/service.yaml"]
