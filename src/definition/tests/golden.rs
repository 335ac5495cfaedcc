//! Bad definitions and what is said of them, word for word.
