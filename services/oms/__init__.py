"""Order management: from a client's order to its last fill."""
