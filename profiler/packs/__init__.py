"""Profile packs: measurements as files, ours and other people's.

A pack is one Parquet file of kernels and of whole networks (`pack`). Tables of other sources become
the same measurements: public ones by what their columns are called (`sources`), anybody's own by a
mapping (`mapping`). Where a table comes from elsewhere, its target's key is no hash but a name that
says under what one number was measured, most general first: device, what of it ran, batch of a
whole network, precision; for example ``pixel4/gpu/fp16``, ``pixel4/cpu-2large/int8`` or
``1080ti/batch32``.
"""
