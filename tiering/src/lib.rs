//! tiering.
