//! planish: a compiler for trained neural networks. ONNX in, smaller and faster ONNX out.
//!
//! The root package is what a person uses: the command line ([`cli`], [`commands`]), pipeline files ([`pipeline`]),
//! engines that run models ([`engine`]), samples ([`data`]), the comparison of two models ([`equivalence`],
//! [`metrics`]) and the report ([`report`]). What a graph is lives in `planish-ir`, what is done to it in
//! `planish-passes`, and the file format in `planish-proto`.

pub mod bisect;
pub mod blame;
pub mod bounds;
pub mod cli;
pub mod commands;
pub mod data;
pub mod engine;
pub mod equivalence;
pub mod explain;
pub mod failure;
pub mod kept;
pub mod memory;
pub use planish_passes::metrics;
pub mod model_file;
pub mod pipeline;
pub mod progress;
pub mod provenance;
pub mod reduce;
pub mod report;
pub mod sizes;
pub mod trial;
