//! wallet
fn main() {}
