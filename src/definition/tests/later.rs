//! Keys that are read and checked, and not obeyed yet.
