# The daemon in a container, from the binary that `cargo build --release` left in target/release (or another: BINARY).
# The base has to be as new as the machine that built it (glibc), and needs the package
# ca-certificates for amqps and https, which debian:12-slim has not.
ARG BASE=debian:12-slim
FROM ${BASE}
ARG BINARY=target/release/warrend

RUN groupadd --system --gid 983 warrend \
    && useradd --system --uid 983 --gid warrend --home-dir /var/lib/warrend --shell /usr/sbin/nologin warrend \
    && install -d -o warrend -g warrend /var/lib/warrend

COPY ${BINARY} /usr/local/bin/warrend
COPY config /etc/warrend

# Settings come from /etc/warrend/warrend.yaml where there is one, and from the environment (WARREND__BROKER__AMQP_URL ...).
ENV WARREND__MIRROR__URL=sqlite:///var/lib/warrend/mirror.db \
    WARREND__DEFINITIONS__DIR=/etc/warrend/queues \
    WARREND__HTTP__LISTEN=0.0.0.0:8080

USER warrend
WORKDIR /var/lib/warrend
VOLUME /var/lib/warrend
EXPOSE 8080
ENTRYPOINT ["warrend"]
CMD ["serve", "--config", "/etc/warrend/warrend.yaml"]
