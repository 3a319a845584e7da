module github.com/dspex/dspex-sidecar

go 1.26
