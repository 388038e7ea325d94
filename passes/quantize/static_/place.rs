//! Which of the nodes that can compute with codes do.
//!
//! Products with constant weights do, unless the assignment says otherwise. What lies between them does where that moves
//! fewer bytes: a node over codes reads and writes a quarter of what it does over floats, and every border between floats
//! and codes costs another pass over the value. Nodes are looked at one by one, again and again while that helps.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{NodeId, Operand, Use, ValueId};

use super::unit::{Gate, Place, Role, Unit};

/// Nodes that compute with codes.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    /// The nodes.
    pub(crate) units: BTreeMap<NodeId, Unit>,
    /// Those whose result is codes; products of matrices may give floats.
    pub(crate) emits: BTreeSet<NodeId>,
}

/// Bytes of a float and of a code, and of turning one into the other.
const FLOAT: u64 = 4;
const CODE: u64 = 1;
const BORDER: u64 = FLOAT + CODE;
/// Sweeps over the graph; real ones need three or four.
const SWEEPS: usize = 12;

/// What decides.
struct Labels<'a> {
    at: Place<'a>,
    candidates: &'a BTreeMap<NodeId, Unit>,
    /// The unit that makes a value.
    makers: BTreeMap<ValueId, NodeId>,
    on: BTreeSet<NodeId>,
}

/// Places codes: `products` are those that were decided on before.
pub(crate) fn place(at: Place<'_>, candidates: &BTreeMap<NodeId, Unit>, products: &BTreeSet<NodeId>) -> Placement {
    let makers = candidates.values().map(|u| (u.result, u.node)).collect();
    let added = candidates.values().filter(|u| matches!(u.role, Role::AddedTo(p) if products.contains(&p)));
    let on = added.map(|u| u.node).chain(products.iter().copied()).collect();
    let mut labels = Labels { at, candidates, makers, on };
    let order: Vec<NodeId> = at.graph.topological_order().unwrap_or_default();
    let between: Vec<&Unit> = order.iter().filter_map(|id| candidates.get(id)).filter(|u| labels.may_flip(u)).collect();
    for sweep in 0..SWEEPS {
        let mut changed = false;
        for i in 0..between.len() {
            // Forth and back, as gains spread in both directions.
            let at = if sweep % 2 == 0 { i } else { between.len() - 1 - i };
            if let Some(unit) = between.get(at) {
                changed |= labels.improve(unit);
            }
        }
        if !changed {
            break;
        }
    }
    let units: BTreeMap<NodeId, Unit> =
        candidates.iter().filter(|(id, _)| labels.on.contains(id)).map(|(id, u)| (*id, u.clone())).collect();
    let emits = units.values().filter(|u| labels.gives_codes(u)).map(|u| u.node).collect();
    Placement { units, emits }
}

impl Labels<'_> {
    /// True for nodes between products, but not where the model's output would be rounded.
    fn may_flip(&self, unit: &Unit) -> bool {
        !matches!(unit.role, Role::Linear(_) | Role::AddedTo(_)) && !self.at.graph.is_output(unit.result)
    }

    /// Turns a node over if that moves fewer bytes.
    fn improve(&mut self, unit: &Unit) -> bool {
        let mut values: BTreeSet<ValueId> =
            unit.reads.iter().filter_map(|&s| self.at.graph.node(unit.node)?.input(s)).collect();
        values.insert(unit.result);
        let before = self.cost(unit, &values);
        let was_on = self.flip(unit.node);
        // Another rounding costs precision, and a result that nobody reads as codes need not be rounded.
        let is_futile = !was_on && rounds(unit) && !self.readers(unit.result).0;
        if !is_futile && self.cost(unit, &values) < before {
            return true;
        }
        if was_on {
            self.on.insert(unit.node)
        } else {
            self.on.remove(&unit.node)
        };
        false
    }

    /// Turns a node over; returns what it was.
    fn flip(&mut self, node: NodeId) -> bool {
        let was_on = self.on.remove(&node);
        if !was_on {
            self.on.insert(node);
        }
        was_on
    }

    fn cost(&self, unit: &Unit, values: &BTreeSet<ValueId>) -> u64 {
        values.iter().map(|&v| self.borders(v)).fold(self.work(unit), u64::saturating_add)
    }

    /// Bytes that a node itself moves.
    fn work(&self, unit: &Unit) -> u64 {
        let on = self.on.contains(&unit.node);
        let n = self.at.elements(unit.result);
        let node = self.at.graph.node(unit.node);
        let reads = unit.reads.iter().filter_map(|&s| node?.input(s)).map(|v| self.at.elements(v));
        let moved = reads.fold(n, u64::saturating_add);
        let rectifier = if unit.absorbs.is_some() { 2 * FLOAT } else { 0 };
        // (bytes per element of the result, or of everything that is moved)
        let (floats, codes) = match unit.role {
            Role::Linear(_) | Role::AddedTo(_) => return 0,
            Role::Passes if node.is_some_and(|n| is_view(&n.op.name)) => return 0,
            Role::Kernel("QLinearSigmoid") => (n.saturating_mul(4 * FLOAT), n.saturating_mul(2 * CODE)),
            Role::Kernel(_) | Role::Passes => (moved.saturating_mul(FLOAT), moved.saturating_mul(CODE)),
            Role::Affine { .. } => (moved.saturating_mul(FLOAT), 0),
            Role::HardGate { .. } => (moved.saturating_mul(FLOAT), moved.saturating_mul(CODE)),
            // onnxruntime runs it as two nodes.
            Role::SelfGated(Gate::Hard) => (n.saturating_mul(5 * FLOAT), n.saturating_mul(5 * CODE)),
            Role::SelfGated(Gate::Sigmoid(_)) => (n.saturating_mul(4 * FLOAT), n.saturating_mul(5 * CODE)),
        };
        if on { codes } else { floats.saturating_add(n.saturating_mul(rectifier)) }
    }

    /// Bytes of turning a value from floats into codes, and back.
    fn borders(&self, value: ValueId) -> u64 {
        let (codes, floats) = self.readers(value);
        let maker = self.makers.get(&value).filter(|id| self.on.contains(id)).and_then(|id| self.candidates.get(id));
        let n = self.at.elements(value);
        let quantized = if codes { n.saturating_mul(BORDER) } else { 0 };
        match maker.map(|u| self.gives_codes(u)) {
            None => quantized,
            Some(false) => n.saturating_mul(FLOAT).saturating_add(quantized),
            Some(true) => n.saturating_mul(CODE).saturating_add(if floats { n.saturating_mul(BORDER) } else { 0 }),
        }
    }

    /// True if the result of a node that computes with codes is codes.
    fn gives_codes(&self, unit: &Unit) -> bool {
        match &unit.role {
            _ if self.at.inputs_only => false,
            Role::Linear(l) if l.op.gives_floats() => matches!(self.readers(unit.result), (true, false)),
            Role::Linear(_) => true,
            _ => true,
        }
    }

    /// Whether anybody reads a value as codes, and as floats.
    fn readers(&self, value: ValueId) -> (bool, bool) {
        let (mut codes, mut floats) = (false, false);
        for user in self.at.graph.users(value) {
            let reads_codes = match user {
                Use::Node(id, Operand::Input(slot)) => {
                    self.on.contains(&id)
                        && self.candidates.get(&id).is_some_and(|u| u.reads.contains(&(slot as usize)))
                }
                Use::Node(_, Operand::Capture(_)) | Use::Output(_) => false,
            };
            codes |= reads_codes;
            floats |= !reads_codes;
        }
        (codes, floats)
    }
}

/// True for units whose result is no code that was there before.
const fn rounds(unit: &Unit) -> bool {
    !matches!(unit.role, Role::Passes | Role::Affine { .. })
}

/// True for operators that only give the same elements another shape.
fn is_view(name: &str) -> bool {
    matches!(name, "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze")
}
