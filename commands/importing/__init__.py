"""The parts of an import: reading a table, understanding its cells, planning rows, writing them."""
