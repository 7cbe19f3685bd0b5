"""One module a stage, in the order data flows: collect, ledger, build, train, apply, validate, register."""
