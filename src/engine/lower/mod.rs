//! A model rewritten such that tract runs it, and runs it right.
//!
//! tract knows about two thirds of ONNX, does not look at the domain of an operator, and ignores some attributes. The
//! rewrite works on the message that is about to be handed over, so the model itself stays as it is:
//!
//! 1. local functions are inlined ([`functions`]), and the types of all values inferred, because the rules ask for
//!    them;
//! 2. every node is offered to the [`RULES`], which expand what tract lacks or gets wrong into what it has; constants
//!    that are dequantized become plain floats;
//! 3. what is left is held against [`refuse`]: an operator that tract does not have is unsupported, and a form of one
//!    that it computes wrongly is refused, because a wrong reference is worse than none;
//! 4. constants that tract cannot read get a form that it can: sparse ones ([`sparse`]), and those of 2 and 4 bits
//!    ([`packed`]). Small floats live as f32, and bfloat16 becomes f32, rounded wherever it is made ([`half`]).
//!
//! The expansions follow the definitions of the operators and not any implementation of them.

mod activation;
mod attention;
mod blocks;
pub(super) mod build;
mod constant;
mod contrib;
mod functions;
pub(super) mod half;
mod integer;
mod nbits;
pub(super) mod packed;
mod qlinear;
mod quantize;
mod recurrent;
mod reduce;
mod refuse;
mod rotary;
mod scope;
mod small_float;
mod sparse;
mod standard;
#[cfg(test)]
mod tests;

use planish_ir::{
    DType, SmallFloat,
    onnx::{export_with_types, import},
    verify,
};
use planish_passes::EngineError;
use planish_proto::onnx::{
    GraphProto, ModelProto, NodeProto, TensorShapeProto, ValueInfoProto, tensor_shape_proto::dimension, type_proto,
};

use super::program::prune;
use build::Builder;
use scope::{Op, Scope};

/// Names of the operators that tract is taught start with this. No model uses it.
const ROUNDING: &str = "planish.RoundTo.";
/// What the name of an operator ends with that makes infinities or NaN of what is too large.
const UNSATURATED: &str = ".unsaturated";

/// The operator that rounds f32 to the nearest numbers of a type: bfloat16, or a float of 4 or 8 bits.
fn rounding_to(dtype: DType, saturate: bool) -> String {
    format!("{ROUNDING}{dtype}{}", if saturate { "" } else { UNSATURATED })
}

/// The reverse of [`rounding_to`].
pub(super) fn rounding_named(op: &str) -> Option<(DType, bool)> {
    let name = op.strip_prefix(ROUNDING)?;
    let dtype = name.strip_suffix(UNSATURATED);
    Some((DType::from_name(dtype.unwrap_or(name))?, dtype.is_none()))
}

/// Every operator of this kind.
pub(super) fn roundings() -> impl Iterator<Item = String> {
    let types = DType::ALL.iter().filter(|d| **d == DType::BF16 || SmallFloat::of(**d).is_some());
    types.flat_map(|&d| [true, false].map(|saturate| rounding_to(d, saturate)))
}

/// Expands one node: adds what replaces it to the builder and returns true, or returns false if it is none of its
/// concern.
type Rule = fn(&Op<'_>, &mut Builder<'_>) -> Result<bool, EngineError>;

/// In the order in which they are tried; what one makes is offered to all of them again.
const RULES: &[Rule] = &[
    constant::hoist,
    constant::reshape,
    quantize::dequantize_constant,
    quantize::dequantize,
    quantize::quantize,
    small_float::cast,
    qlinear::expand,
    integer::expand,
    nbits::expand,
    blocks::expand,
    contrib::expand,
    attention::expand,
    rotary::expand,
    half::in_f32,
    activation::expand,
    recurrent::reverse,
    reduce::extremum,
    standard::expand,
];

/// A rule's result may need another rule, but not for ever.
const MAX_ROUNDS: usize = 8;

/// Rewrites a model in place. Its graph comes out pruned and without types of inner values.
pub(super) fn for_tract(message: &mut ModelProto) -> Result<(), EngineError> {
    functions::inline(message)?;
    annotate(message);
    half::widen_bfloat16(message)?;
    let opset = message.opset_import.iter().find(|o| matches!(o.domain.as_deref(), None | Some("" | "ai.onnx")));
    let mut scope = Scope::new(opset.and_then(|o| o.version).unwrap_or(1), message);
    if let Some(graph) = &mut message.graph {
        lower_graph(graph, &mut scope)?;
        prune(graph);
        packed::widen(graph)?;
    }
    Ok(())
}

/// Enters what can be known of the types of inner values: sizes, where the file has names for them. A message that is not valid after inlining stays as it is;
/// the engine will say what is wrong with it.
fn annotate(message: &mut ModelProto) {
    let infos = message.graph.iter_mut().flat_map(|g| &mut g.value_info);
    for shape in infos.filter_map(|i| shape_of(i)) {
        for dim in &mut shape.dim {
            dim.value = dim.value.take().filter(|v| matches!(v, dimension::Value::DimValue(_)));
        }
    }
    let Ok(mut model) = import(message.clone(), &|_| Err("nothing is stored elsewhere".into())) else { return };
    planish_ir::infer::annotate(&mut model);
    if let Ok(verified) = verify(&model) {
        *message = export_with_types(&verified);
    }
}

fn shape_of(info: &mut ValueInfoProto) -> Option<&mut TensorShapeProto> {
    match info.r#type.as_mut()?.value.as_mut()? {
        type_proto::Value::TensorType(t) => t.shape.as_mut(),
        _ => None,
    }
}

fn lower_graph(graph: &mut GraphProto, scope: &mut Scope) -> Result<(), EngineError> {
    sparse::densify(graph)?;
    scope.enter(graph);
    let mut lowered = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node) {
        lower_node(node, graph, scope, &mut lowered, 0)?;
    }
    graph.node = lowered;
    graph.value_info.clear();
    scope.leave();
    Ok(())
}

fn lower_node(
    mut node: NodeProto,
    graph: &mut GraphProto,
    scope: &mut Scope,
    lowered: &mut Vec<NodeProto>,
    round: usize,
) -> Result<(), EngineError> {
    // An input that is left out at the end may as well not be there, and some of tract's operators count.
    while node.input.pop_if(|name| name.is_empty()).is_some() {}
    if let Some(built) = rewrite(&node, scope, round)? {
        for (name, tensor) in built.constants {
            graph.initializer.push(build::initializer(&name, &tensor));
            scope.add_constant(&name, tensor);
        }
        for made in built.nodes {
            let round = if made.settled { MAX_ROUNDS } else { round + 1 };
            lower_node(made.node, graph, scope, lowered, round)?;
        }
        return Ok(());
    }
    refuse::check(&Op::new(&node, scope))?;
    for inner in node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)) {
        lower_graph(inner, scope)?;
    }
    // tract wants different names for all nodes, which ONNX does not ask for.
    node.name = node.output.iter().find(|o| !o.is_empty()).cloned();
    lowered.push(node);
    Ok(())
}

fn rewrite(node: &NodeProto, scope: &Scope, round: usize) -> Result<Option<build::Built>, EngineError> {
    let op = Op::new(node, scope);
    for rule in RULES.iter().take_while(|_| round < MAX_ROUNDS) {
        let mut builder = Builder::new(&op);
        if rule(&op, &mut builder)? {
            return Ok(Some(builder.finish()));
        }
    }
    Ok(None)
}
