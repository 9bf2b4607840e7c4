# syntax=docker/dockerfile:1
# The image of tidegate: one static program and the list of certificate authorities, for linux/amd64 and linux/arm64.
#
#   docker build --tag tidegate:0.1.0 .
#
# It runs as 65532, needs no capability, and writes nowhere.
ARG RUST_IMAGE=rust:1.95-bookworm

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
# The tools of the load by which the program is laid out.
RUN apt-get update && apt-get install -y --no-install-recommends llvm-22 nghttp2-client wrk && rm -rf /var/lib/apt/lists/*
# The steps are in a script, so that a test runs them on machines that have no container engine.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    PGO=1 .ci/static.sh /out/tidegate

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tidegate" \
      org.opencontainers.image.description="A Kubernetes ingress gateway" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/tidegate /tidegate
# The authorities of wellKnownCACertificates: System.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["/tidegate"]
