"""A small world, base and adapters: everything the demo, tests and load tests need, made here."""
