"""Client of dspex-sidecar."""
