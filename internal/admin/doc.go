// Package admin owns what operators see: the sidecar.* methods for health, statistics, workers, clients and calls. It
// reads snapshots and changes nothing.
package admin
