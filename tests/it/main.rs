//! The integration tests: one binary, because each one that links the embedded engine is large.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`] | commands, messages, exit codes |
//! | [`equivalence`] | every pass and preset on every fixture, by tract and by onnxruntime; the checker rejects wrong models |
//! | [`engines`] | onnxruntime runs what tract cannot |
//! | [`round_trip`] | import, export, text |
//! | [`faults`] | a wrong pass is found by bisection; a failing model gets small |
//! | [`determinism`] | threads and the order of nodes do not matter |
//! | [`hostile`] | damaged and malicious files |
//! | [`project`] | layering, generated text, fixtures |
//! | [`prune`] | channels that others can stand for |
//! | [`factorize`] | budgets of factorization, and fits in turn |

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helpers of tests may fail like tests")]

mod cli;
mod determinism;
mod engines;
mod equivalence;
mod factorize;
mod faults;
mod hostile;
mod project;
mod prune;
mod round_trip;
mod samples;
mod sensitivity;
mod support;
