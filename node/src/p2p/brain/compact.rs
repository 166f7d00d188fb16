//! Compact blocks: made, and taken apart again (BIP 152).
