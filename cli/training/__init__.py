"""Commands about what is trained: data, train, runs, evaluate."""
