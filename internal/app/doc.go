// Package app wires the sidecar: it maps a configuration onto the packages' own, starts them in order and ends them in the
// reverse order. It decides nothing that they decide.
package app
