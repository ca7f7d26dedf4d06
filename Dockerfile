# The image of a release: the binary that GoReleaser has built, and the
# certificates of the machine that built it. Nothing else is in it.
FROM scratch
ARG TARGETPLATFORM
COPY build/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE build/THIRD_PARTY_LICENSES /licenses/
COPY $TARGETPLATFORM/twiliosync /twiliosync
USER 65532:65532
ENTRYPOINT ["/twiliosync"]
