//! What is known of nodes that inference has not met: those that a patch is to add, or has just added.

use super::{Fact, GraphFacts, engine};
use crate::{Attrs, Graph, Node, NodeId, OpName, Opsets, ValueId, op};

/// What is known of a node that does not exist yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prospect {
    /// By output slot.
    pub outputs: Vec<Fact>,
    /// Multiply-accumulates of one run, if they are known.
    pub macs: Option<u64>,
}

/// What is known of the outputs of a node that does not exist yet. Inputs are by slot, `None` for one that is left out.
/// Fails with a message if the node cannot be valid.
pub fn prospect(
    op: &OpName,
    attrs: &Attrs,
    inputs: &[Option<Fact>],
    outputs: usize,
    opsets: &Opsets,
) -> Result<Prospect, String> {
    // Rules of operators look only at whether a slot is given, and at the facts.
    let slot = |present: bool| present.then_some(ValueId(0));
    let node = Node {
        name: String::new(),
        op: op.clone(),
        attrs: attrs.clone(),
        doc: String::new(),
        metadata: Default::default(),
        inputs: inputs.iter().map(|i| slot(i.is_some())).collect(),
        outputs: (0..outputs).map(|_| slot(true)).collect(),
        captures: Vec::new(),
        is_local: false,
        devices: Vec::new(),
    };
    let facts = inputs.iter().map(|i| i.as_ref().unwrap_or(&Fact::UNKNOWN)).collect();
    let Some(spec) = op::spec(op) else {
        return Ok(Prospect { outputs: vec![Fact::UNKNOWN; outputs], macs: None });
    };
    let version = opsets.get(&op.domain).copied().unwrap_or(1);
    spec.check_arity(&node, version)?;
    let Some(call) = engine::call(&node, opsets, facts, Vec::new()) else {
        return Ok(Prospect { outputs: vec![Fact::UNKNOWN; outputs], macs: None });
    };
    let mut known: Vec<Fact> = engine::outputs(&call)?.into_iter().map(Fact::bounded).collect();
    known.resize(outputs, Fact::UNKNOWN);
    let macs = spec.macs.map_or(Some(0), |rule| rule(&call, &known));
    Ok(Prospect { outputs: known, macs })
}

impl GraphFacts {
    /// Adds what is known of nodes that were added to the graph, in the order in which they feed each other, and of the
    /// constants that they read. What subgraphs of theirs hold stays unknown.
    pub fn learn(&mut self, graph: &Graph, added: &[NodeId], opsets: &Opsets) {
        for &id in added {
            let Some(node) = graph.node(id) else { continue };
            let last = node.operands().chain(node.outputs().iter().flatten().copied()).map(ValueId::index).max();
            let count = last.map_or(0, |i| i + 1).max(self.facts.len());
            self.facts.resize(count, Fact::UNKNOWN);
            for v in node.operands() {
                if let (None, Some(t)) = (self.ty(v), graph.constant(v)) {
                    self.set(v, Fact::constant(t).bounded());
                }
            }
            let inputs = node.inputs().iter().map(|v| v.map_or(&Fact::UNKNOWN, |v| self.fact(v))).collect();
            let call = if node.is_local() { None } else { engine::call(node, opsets, inputs, Vec::new()) };
            let known = call.and_then(|c| engine::outputs(&c).ok()).unwrap_or_default();
            for (output, fact) in node.outputs().to_vec().iter().zip(known) {
                if let Some(v) = *output {
                    let fact = fact.bounded().named(&self.scope, v);
                    self.set(v, fact);
                }
            }
        }
    }
}
