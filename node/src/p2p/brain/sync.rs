//! Headers first: whom to ask, what to believe, how far the node is.
