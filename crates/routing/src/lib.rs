//! What clients follow when the leader changes. So far: the operator's [`callbacks`].

pub mod callbacks;
