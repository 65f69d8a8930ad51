"""The naive design, written plainly, as a peer to measure against.

One blocking HTTP call to risk an order, one Valkey round trip a field, binary floats, read-modify-write
without atomicity, publish first and save afterwards, fills applied as they come. It is what a first version
of this job usually looks like; nothing of it is used by the services.
"""
