//! Outputs that end with a squashing function, and what stands before it.
//!
//! A Softmax or a Sigmoid hides most errors, and what it lets through are few and large ones: where nearly all of a map of
//! probabilities is 0, or every row has one winner, its cosine says how a few borders moved. What is before it says how near the models
//! are with every element.

use planish_ir::{Model, Tensor};

/// An output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// What it was before a Softmax, LogSoftmax, Sigmoid or Tanh at its end.
    pub before: Option<Before>,
}

/// A value before a squashing function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// Its name.
    pub name: String,
    /// The operator.
    pub function: String,
    /// The function does not depend on the mean of a row.
    pub is_centred: bool,
}

/// What stands before the end of an output; nothing if that is no squashing function of a computed value.
pub fn before(model: &Model, output: &str) -> Option<Before> {
    let graph = &model.graph;
    let node = graph.value_named(output).and_then(|v| graph.producer(v))?.1;
    let is = |ops: &[&str]| !node.is_local() && ops.iter().any(|op| node.op.is(op));
    let is_softmax = is(&["Softmax", "LogSoftmax"]);
    let input = node.input(0).filter(|_| is_softmax || is(&["Sigmoid", "Tanh"]))?;
    let is_last = node.attrs.int("axis").is_none_or(|axis| axis == -1);
    graph.producer(input)?;
    Some(Before { name: graph.name_of(input), function: node.op.name.clone(), is_centred: is_softmax && is_last })
}

/// Rows along the last axis, each without its mean. `None` for what is no tensor of floats with rows.
pub fn centred(tensor: &Tensor) -> Option<Tensor> {
    let width = tensor.dims().last().and_then(|&w| usize::try_from(w).ok()).filter(|&w| w > 0)?;
    let mut values: Vec<f32> = tensor.iter_f32().ok()?.collect();
    for row in values.chunks_mut(width) {
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / width as f64;
        row.iter_mut().for_each(|v| *v -= mean as f32);
    }
    Tensor::from_f32(tensor.dims(), &values).ok()
}
