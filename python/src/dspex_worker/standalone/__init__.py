"""Stand-alone mode: one process that listens on a Unix socket itself, without a sidecar.

It speaks the same protocol to the same clients, with sessions in its own memory; it has one worker, itself.
"""
