//! From an image reference to a file of a known digest.
