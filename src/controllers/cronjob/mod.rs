//! Starts Jobs by the clock.
//!
//! A Job is named after the minute that it is for, so that however often a time is looked at, it
//! is started once.

pub(crate) mod plan;
pub(crate) mod run;
