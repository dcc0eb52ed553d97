//! The decision core: what one node does next, as a value computed from what it observed.
//!
//! [`decide`] is a pure function of a [`Memory`] and an [`Observation`]. It sees no clock, no socket and no file; the
//! daemon, the simulator and `ptctl why` call the very same one.
//!
//! A cycle is a sequence of *rounds* over one frozen observation. In each round `decide` runs through the rules in the
//! order of the contract's section B, from the top. Where a rule needs an answer (has the lock been renewed? what do the
//! peers say?), the round looks it up among the outcomes of the actions that this cycle has already carried out; if it is
//! not there yet, the action is queued and the round ends. The driver executes what was queued, adds the outcomes and
//! calls again. So the control flow reads from top to bottom, and an answer is never asked for twice.
//!
//! Memory changes only when a cycle is complete: a round that ends early leaves no trace but its actions.

pub mod action;
pub mod decision;
pub mod facts;
pub mod lease;
pub mod memory;
pub mod observation;

mod bootstrap;
pub mod callbacks;
pub mod candidates;
mod cycle;
pub mod failsafe;
pub mod fence;
mod follow;
pub mod forecast;
mod former;
pub mod health;
mod identity;
mod job;
mod leader;
mod manual;
pub mod patience;
mod pause;
mod race;
mod recover;
mod rewind;
mod round;
pub mod rto;
pub mod schedule;
pub mod slots;
mod standby;
mod startup;
pub mod sync;
mod unlocked;
mod unmanaged;
mod unreachable;
mod upstream;
mod watchdog;
pub mod words;

pub use action::{Action, DemoteMode, Job, Outcome};
pub use bootstrap::clone_source;
pub use cycle::decide;
pub use decision::{Decision, Fired};
pub use follow::node_to_follow;
pub use lease::Lease;
pub use memory::{Memory, RewindState};
pub use observation::Observation;
pub use upstream::{Remote, Upstream};
