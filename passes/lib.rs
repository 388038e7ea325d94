//! The rewrite passes of planish, and the driver that applies them.
//!
//! # Writing a pass
//!
//! 1. Copy the file of a similar pass. Its header says, in this order: what it does; `Before` and `After`; `When` it
//!    applies; what it `Refuses`; its `Numerics` class; the `Reference` of the method. A test holds every pass to it,
//!    and `planish passes explain NAME` prints it.
//! 2. Write the rewrite: read the graph, return a [`planish_ir::Patch`] or a [`Skip`] with the reason. What can be asked
//!    of the operator table is asked there and not decided by names.
//! 3. Add one line to [`PASSES`].
//! 4. Test it in its file: a snapshot of the text before and after, and one for each refusal. Numeric equivalence is
//!    tested for every line of the table at once by the root package.
//!
//! Cases that every rewrite meets: an initializer that is also a graph input can be overridden, so it is no constant; a
//! weight or an intermediate value may have other readers, be a graph output, or be captured by a subgraph; optional
//! inputs may be left out; operators mean different things in different opset versions.

pub mod calibration;
mod driver;
mod engine;
mod linear;
mod pass;
mod reconstruct;
mod registry;
mod target;
mod trust_region;
mod weights;

pub mod clean;
pub mod convert;
pub mod factorize;
pub mod fuse;
mod heads;
pub mod lint;
pub mod metrics;
pub mod prune;
pub mod quantize;
pub mod rules;
pub mod squashed;
pub mod structure;

#[cfg(test)]
mod testing;

pub use calibration::{Calibration, Forecast, SampleError, Samples};
pub use driver::{Driver, DriverError, NoObserver, Observer, Outcome, PassReport, Patched, Refusal, Size};
pub use engine::{Engine, EngineError, Runnable, Stopwatch, Tensors, Timing};
pub use linear::{Bias, Linear};
pub use pass::{Changes, Context, Layer, Pass, PassError, Rule, RuleContext, Shape, Skip, Step, Transform};
pub use registry::{Entry, PASSES, StepConfig, find, suggest};
pub use target::Target;
pub use weights::{InMemory, Weights, part};
