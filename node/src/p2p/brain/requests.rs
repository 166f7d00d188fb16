//! Which transaction is asked of whom, and when of somebody else.
