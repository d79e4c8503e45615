"""Commands about what is served: adapters, swap, ask, the browser's page, benchmarks."""
