//! tidegate: a Kubernetes ingress controller and sidecar in one binary.
