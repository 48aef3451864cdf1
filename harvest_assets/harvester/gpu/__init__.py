"""The harvester's sums in Triton kernels; `choice` says whether a device uses them."""
