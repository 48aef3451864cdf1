"""Bytes on disk: paths, atomic writes, leases, checksummed records, untrusted input."""
