//! The controllers: `plan` is pure, `run` is the loop.
