//! Tests of relaying.
