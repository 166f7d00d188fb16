//! Which incoming connection gives way when places are short.
