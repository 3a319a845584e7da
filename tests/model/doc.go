// Package model owns the test that kills workers and sidecars under sessions, and holds what each session must hold then. It has no code
// but tests.
package model
