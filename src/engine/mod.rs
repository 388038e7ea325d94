//! Engines that run models: [`tract`], which is built in, and [`ort`] (ONNX Runtime), which is loaded if it is there.
//!
//! Both get the model as an ONNX message in memory (`program`); no file is written unless the message is too large
//! for one. tract runs only a part of ONNX and some of it wrongly, so a model is first rewritten for it (`lower`),
//! and what it is known to get wrong is refused rather than used as a proof.

pub(crate) mod adapt;
mod lower;
pub mod ort;
mod program;
pub mod tract;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod witness;
