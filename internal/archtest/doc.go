// Package archtest holds tests on the shape of the source: which package may import which, that each says what it
// owns, and that there is one version. It has nothing that others could import.
package archtest
