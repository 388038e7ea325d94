//! The operator table: what planish knows about each operator, in one place.
//!
//! One file and one line of [`TABLE`] per operator. Every analysis asks the table; no pass matches on names for what a
//! line can say. Operators that are not listed are left alone: they block what touches them and nothing else.

use crate::{Node, OpName, axes, cost, infer};

mod arg;
mod attention;
pub mod attributes;
mod binary;
mod bit_cast;
mod cast;
mod center_crop_pad;
mod clip;
mod col2im;
mod concat;
mod constant;
mod constant_of_shape;
mod conv;
mod conv_transpose;
mod cumulative;
mod depth_to_space;
mod det;
mod dropout;
mod einsum;
mod expand;
mod eye_like;
mod flatten;
mod gather;
mod gather_block;
mod gemm;
mod global_pool;
mod identity;
mod if_;
mod image_decoder;
mod index;
mod linear_attention;
mod loop_;
mod loss;
mod matmul;
mod matmul_nbits;
mod max_unpool;
mod non_max_suppression;
mod non_zero;
mod norm;
mod one_hot;
mod optional;
mod pad;
mod pool;
mod qlinear;
mod quantize;
#[cfg(test)]
mod quantized_tests;
mod random;
mod range;
mod recurrent;
mod reduce;
mod reshape;
mod resize;
mod reverse_sequence;
mod sampling;
mod scan;
mod scatter;
mod sequence;
mod shape;
mod signal;
mod slice;
mod softmax;
mod split;
mod squeeze;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod tile;
mod top_k;
mod transpose;
mod trilu;
mod unary;
mod unique;
mod variadic;
mod where_;

pub use table::TABLE;

/// What is known of one operator.
#[derive(Debug, Clone)]
pub struct OpSpec {
    /// Operator set; empty for ai.onnx.
    pub domain: &'static str,
    /// Operator.
    pub name: &'static str,
    /// Its signatures, by ascending opset version; the last one whose version is not above the model's is in force. Only
    /// versions that change the numbers of inputs or outputs are listed.
    pub signatures: &'static [Signature],
    /// What rewrites may rely on.
    pub traits: Traits,
    /// Types, and small integer values, of the outputs from those of the inputs.
    pub infer: infer::Rule,
    /// What its subgraphs get as inputs, if it has any that take inputs.
    pub bodies: Option<infer::BodyRule>,
    /// How the axes of inputs, weights and outputs hang together, if that is known.
    pub axes: Option<axes::Rule>,
    /// Multiply-accumulates of one run, from the types of inputs and outputs; none without linear algebra.
    pub macs: Option<cost::Rule>,
    /// Bytes that one run reads.
    pub reads: cost::Rule,
}

/// Inputs and outputs from one opset version on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// First opset version.
    pub since: i64,
    /// Fewest and most inputs.
    pub inputs: (usize, usize),
    /// Fewest and most outputs.
    pub outputs: (usize, usize),
}

/// No upper bound on inputs or outputs.
pub const VARIADIC: usize = usize::MAX;

/// What rewrites may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// The same inputs always give the same outputs, and there is no other effect. False for random operators. An
    /// operator with subgraphs is as pure as they are; see [`is_pure`].
    pub pure: bool,
    /// The first two inputs may be swapped. Before opset 7, not where the attribute `broadcast` is set.
    pub commutative: bool,
    /// Each output element depends on the elements at its own place (after broadcasting) only.
    pub elementwise: bool,
    /// How a result that is computed at compile time relates to one that a runtime computes.
    pub folding: Folding,
}

/// How a result that is computed at compile time relates to one that a runtime computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folding {
    /// Bit for bit the same everywhere: elements are moved, compared, counted, or combined by operations that IEEE 754
    /// rounds correctly.
    Exact,
    /// Up to float rounding: sums whose order is free, transcendental functions.
    Rounding,
    /// Not to be computed at compile time.
    Never,
}

impl Traits {
    /// Pure, nothing else known; folding exact.
    pub const PURE: Traits = Traits { pure: true, commutative: false, elementwise: false, folding: Folding::Exact };
    /// Pure, with results that depend on the order or method of float arithmetic.
    pub const ROUNDING: Traits = Traits { folding: Folding::Rounding, ..Traits::PURE };
    /// Pure, but not to be computed at compile time.
    pub const OPAQUE: Traits = Traits { folding: Folding::Never, ..Traits::PURE };
    /// Pure and elementwise, with results that depend on the method of float arithmetic.
    pub const ELEMENTWISE_ROUNDING: Traits = Traits { folding: Folding::Rounding, ..Traits::ELEMENTWISE };
    /// Pure and elementwise, and the first two inputs may be swapped; folding exact.
    pub const COMMUTATIVE: Traits = Traits { commutative: true, ..Traits::ELEMENTWISE };
    /// Pure and elementwise; folding exact.
    pub const ELEMENTWISE: Traits = Traits { elementwise: true, ..Traits::PURE };
    /// Not a function of the inputs.
    pub const IMPURE: Traits = Traits { pure: false, folding: Folding::Never, ..Traits::PURE };
}

/// The table line of an operator; `None` for an operator that is not listed.
pub fn spec(op: &OpName) -> Option<&'static OpSpec> {
    if !op.overload.is_empty() {
        return None;
    }
    index::find(&op.domain, &op.name)
}

/// The table line of a node's operator; `None` also if the model defines the operator itself.
pub fn of(node: &Node) -> Option<&'static OpSpec> {
    if node.is_local() { None } else { spec(&node.op) }
}

/// True if nothing happens when a node runs but that it makes its outputs, so that it can go if nobody reads them. Nothing
/// else happens for the operators of the table; an unknown one, also in a subgraph, may do anything.
pub fn has_no_effect(node: &Node) -> bool {
    of(node).is_some() && node.attrs.graphs().all(|g| g.nodes().all(|(_, inner)| has_no_effect(inner)))
}

/// True if a node, and whatever is in its subgraphs, always gives the same outputs for the same inputs. Calls of local
/// functions and operators that are not listed count as if they did not.
pub fn is_pure(node: &Node) -> bool {
    of(node).is_some_and(|s| s.traits.pure) && node.attrs.graphs().all(|g| g.nodes().all(|(_, inner)| is_pure(inner)))
}

/// From opset `since` on: `least` to `most` inputs, one output.
const fn sig(since: i64, least: usize, most: usize) -> Signature {
    Signature { since, inputs: (least, most), outputs: (1, 1) }
}

impl Signature {
    /// With other numbers of outputs.
    const fn outputs(mut self, least: usize, most: usize) -> Signature {
        self.outputs = (least, most);
        self
    }
}

impl OpSpec {
    /// An operator of ai.onnx without linear algebra in it. Its axes are opaque unless it is elementwise.
    const fn new(name: &'static str, signatures: &'static [Signature], traits: Traits, infer: infer::Rule) -> OpSpec {
        let axes: Option<axes::Rule> = if traits.elementwise { Some(axes::elementwise) } else { None };
        OpSpec { domain: "", name, signatures, traits, infer, bodies: None, axes, macs: None, reads: cost::all_inputs }
    }

    /// In another domain.
    const fn domain(mut self, domain: &'static str) -> OpSpec {
        self.domain = domain;
        self
    }

    /// With axes that hang together.
    const fn axes(mut self, rule: axes::Rule) -> OpSpec {
        self.axes = Some(rule);
        self
    }

    /// With multiply-accumulates.
    const fn macs(mut self, rule: cost::Rule) -> OpSpec {
        self.macs = Some(rule);
        self
    }

    /// With inputs that are not read as a whole.
    const fn reads(mut self, rule: cost::Rule) -> OpSpec {
        self.reads = rule;
        self
    }

    /// With subgraphs that take inputs.
    const fn bodies(mut self, rule: infer::BodyRule) -> OpSpec {
        self.bodies = Some(rule);
        self
    }

    /// The signature in force at an opset version; `None` if the operator is younger.
    pub fn signature(&self, opset: i64) -> Option<&'static Signature> {
        self.signatures.iter().rev().find(|s| s.since <= opset)
    }

    /// Fails with a message if a node has too few or too many inputs or outputs for the opset version.
    pub fn check_arity(&self, node: &Node, opset: i64) -> Result<(), String> {
        let Some(s) = self.signature(opset) else {
            let first = self.signatures.first().map_or(0, |s| s.since);
            return Err(format!("{} exists from opset {first} on, but the model imports {opset}", self.name));
        };
        for (what, count, (least, most)) in
            [("inputs", node.inputs().len(), s.inputs), ("outputs", node.outputs().len(), s.outputs)]
        {
            if count < least || count > most {
                let range = match most {
                    VARIADIC => format!("at least {least}"),
                    _ if least == most => least.to_string(),
                    _ => format!("{least} to {most}"),
                };
                return Err(format!("has {count} {what}; {} takes {range} at opset {opset}", self.name));
            }
        }
        Ok(())
    }
}
