//! The scheduler: snapshot, filter, score, bind.
