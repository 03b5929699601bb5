//! Compiling, in a child process: what a hostile module does to the compiler stays there.
