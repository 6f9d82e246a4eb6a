"""Real documents and benchmarks that anyone can get: what `make demo` and the end-to-end tests run on."""
