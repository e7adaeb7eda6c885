# The lines down to USER are the same for gateway, auth and worker: they are built once, and their layers stored once.
FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY requirements.txt .
# The host's certificates, for a host behind a proxy that has its own; in no layer. Without them pip takes its own.
# --no-compile: .pyc files hold the time of their source, and would make another layer of each build.
RUN --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache/pip \
    if [ -s /run/secrets/certificates ]; then export PIP_CERT=/run/secrets/certificates; fi; \
    pip install --no-compile --disable-pip-version-check --root-user-action=ignore -r requirements.txt
COPY store.py .
USER 10001:10001

COPY gateway.py .
EXPOSE 8000
CMD ["uvicorn", "gateway:app", "--host", "0.0.0.0", "--port", "8000"]
