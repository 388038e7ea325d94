//! Passes that store or compute in fewer bits.

mod int8_weights;
mod per_channel;

pub use int8_weights::Int8Weights;
