FROM python:3.12.13-slim-trixie

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    ANNALS_HOME=/var/lib/annals

# compose.yaml names these ids.
RUN groupadd --system --gid 10001 annals && \
    useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/annals --create-home annals

# Packages first, so that a code change does not install them again.
COPY requirements.txt /app/
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /app/requirements.txt

COPY domain /app/domain
COPY eventlog /app/eventlog
COPY projections /app/projections
COPY readmodels /app/readmodels
COPY replay /app/replay
COPY commands /app/commands
COPY runtime /app/runtime
COPY api /app/api
COPY server /app/server

# Processes run with a read-only file system, so the byte code is made here.
RUN python -m compileall -q /app

WORKDIR /var/lib/annals
USER annals
ENTRYPOINT ["python", "-P", "-m", "server.cli"]
CMD ["serve"]
