"""What the real-parts tests and the benchmarks are made of: brokers, buckets, payloads and verdicts."""
