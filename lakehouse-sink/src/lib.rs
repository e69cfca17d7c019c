//! lakehouse-sink.
