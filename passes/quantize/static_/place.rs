//! Which of the nodes that can compute with codes do.
//!
//! Products with constant weights do, unless the assignment says otherwise. What lies between them does where that takes less time:
//! kernels for codes are hardly faster than those for floats, some are slower, but every border between floats and codes costs another
//! pass over the value. Nodes are looked at one by one, again and again while that helps.

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

/// Time of moving a float or a code, and of turning one into the other.
const FLOAT: u64 = 4;
const CODE: u64 = 1;
const BORDER: u64 = FLOAT + CODE;

/// What an operator takes for an element, on codes and on floats, as onnxruntime's kernels do where [`BORDER`] is what QuantizeLinear takes
/// (`benches/between.py`; those of pools with channels at the back).
struct Time {
    codes: u64,
    floats: u64,
    /// Of which elements.
    of: Elements,
}

enum Elements {
    Result,
    Read,
    Both,
}

impl Time {
    const fn new(codes: u64, floats: u64, of: Elements) -> Time {
        Time { codes, floats, of }
    }

    /// None for what takes no time, or the same in any case.
    fn of(role: &Role, operator: &str) -> Option<Time> {
        Some(match role {
            Role::Linear(_) | Role::AddedTo(_) => return None,
            Role::Kernel("QLinearAdd") => Time::new(6, 6, Elements::Result),
            Role::Kernel("QLinearMul") => Time::new(9, 6, Elements::Result),
            Role::Kernel("QLinearSigmoid") => Time::new(10, 11, Elements::Result),
            Role::Kernel("QLinearLeakyRelu") => Time::new(10, 6, Elements::Result),
            Role::Kernel("QLinearGlobalAveragePool") => Time::new(2, 8, Elements::Read),
            Role::Kernel("QLinearAveragePool") => Time::new(200, 34, Elements::Read),
            Role::Passes => match operator {
                "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => return None,
                "MaxPool" => Time::new(7, 20, Elements::Read),
                _ => Time::new(CODE, FLOAT, Elements::Both),
            },
            // QLinearConcat.
            Role::Kernel(_) => Time::new(CODE, FLOAT, Elements::Result),
            Role::Affine { .. } => Time::new(0, 4, Elements::Result),
            Role::HardGate { .. } => Time::new(4, 6, Elements::Result),
            // Two nodes of onnxruntime: a sum, or a sigmoid, and a product.
            Role::SelfGated(Gate::Hard) => Time::new(13, 12, Elements::Result),
            Role::SelfGated(Gate::Sigmoid(_)) => Time::new(19, 12, Elements::Result),
        })
    }
}

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

    /// Turns a node over if that takes less time.
    fn improve(&mut self, unit: &Unit) -> bool {
        let mut values: BTreeSet<ValueId> =
            unit.reads.iter().filter_map(|&s| self.at.graph.node(unit.node)?.input(s)).collect();
        values.insert(unit.result);
        let before = self.cost(unit, &values);
        let was_on = self.flip(unit.node);
        // Another rounding costs precision, and a result that nobody reads as codes need not be rounded.
        let is_futile = !was_on && rounds(unit) && !self.readers(unit.result).0;
        let after = self.cost(unit, &values);
        // A view in front of codes may as well have them: then what is in front of it may compute with codes. Runtimes see through views, too.
        let hands_on = !was_on && self.is_view(unit) && self.readers(unit.result) == (true, false);
        if !is_futile && (after < before || (hands_on && after == before)) {
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

    /// Time that a node itself takes.
    fn work(&self, unit: &Unit) -> u64 {
        let Some(node) = self.at.graph.node(unit.node) else { return 0 };
        let Some(time) = Time::of(&unit.role, &node.op.name) else { return 0 };
        let result = self.at.elements(unit.result);
        let read = || {
            let values = unit.reads.iter().filter_map(|&s| node.input(s));
            values.map(|v| self.at.elements(v)).fold(0, u64::saturating_add)
        };
        let elements = match time.of {
            Elements::Result => result,
            Elements::Read => read(),
            Elements::Both => result.saturating_add(read()),
        };
        if self.on.contains(&unit.node) {
            return elements.saturating_mul(time.codes);
        }
        // The rectifier that codes do without.
        let rectifier = if unit.absorbs.is_some() { FLOAT } else { 0 };
        elements.saturating_mul(time.floats).saturating_add(result.saturating_mul(rectifier))
    }

    /// Time of turning a value from floats into codes, and back.
    fn borders(&self, value: ValueId) -> u64 {
        let (codes, floats) = self.readers(value);
        let maker = self.makers.get(&value).filter(|id| self.on.contains(id)).and_then(|id| self.candidates.get(id));
        let n = self.at.elements(value);
        let quantized = if codes { n.saturating_mul(BORDER) } else { 0 };
        match maker.map(|u| self.gives_codes(u)) {
            None => quantized,
            Some(false) => n.saturating_mul(FLOAT).saturating_add(quantized),
            Some(true) => {
                let written = if maker.is_some_and(|u| self.is_view(u)) { 0 } else { n.saturating_mul(CODE) };
                written.saturating_add(if floats { n.saturating_mul(BORDER) } else { 0 })
            }
        }
    }

    /// True for a unit that only gives the same elements another shape.
    fn is_view(&self, unit: &Unit) -> bool {
        let node = self.at.graph.node(unit.node);
        unit.role == Role::Passes && node.is_some_and(|n| Time::of(&unit.role, &n.op.name).is_none())
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
