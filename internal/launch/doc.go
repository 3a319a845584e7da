// Package launch owns how the sidecar's processes are started: all by way of the keeper, workers as fresh Python
// processes or forked from a zygote, what they print as log lines. It does not know when to start one, or why.
package launch
