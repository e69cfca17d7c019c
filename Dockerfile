# The broker as an image: built from this tree, run by a user without rights. `docker build -t varve .`
FROM rust:1.95-bookworm AS build
WORKDIR /varve
COPY . .
RUN cargo build --release --locked --features sql

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home --home-dir /var/lib/varve varve
COPY --from=build /varve/target/release/varve /usr/local/bin/varve

# Enough for `docker run -p 9092:9092 varve`; any other key of docs/configuration.md is set the same way.
ENV KAFKA_LISTENERS=PLAINTEXT://:9092
ENV KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://localhost:9092
ENV KAFKA_LOG_DIRS=/var/lib/varve/log
ENV VARVE_HTTP_LISTENER=0.0.0.0:9644

USER varve
WORKDIR /var/lib/varve
VOLUME /var/lib/varve
EXPOSE 9092 9644
# Asked with what the image has anyway: bash speaks TCP.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/9644 && printf 'GET /health/ready HTTP/1.0\\r\\n\\r\\n' >&3 && head -1 <&3 | grep -q ' 200 '"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["varve"]
CMD ["server"]
