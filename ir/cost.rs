//! What a model costs: parameters, bytes of weights, multiply-accumulates.
//!
//! **Parameters** are the elements of all constants (initializers, defaults of inputs, `Constant` nodes), in subgraphs and
//! functions too, except those of int64, bool and string, which hold shapes, axes and indices. Int32 counts: biases of
//! quantized convolutions have that type. **Weight bytes** are what they take as stored, packed below a byte.
//!
//! **MACs** are the multiplications of linear algebra (matrix products, convolutions, recurrent cells, attention) in one
//! run; elementwise operators, pools, normalizations and activations count as none. Both branches of an `If` count, so
//! the sum is an upper bound; the body of a `Loop` or `Scan` counts as often as it runs, where that is known.
//!
//! **Traffic** is what the nodes read and write, weights included, as if each went to memory on its own: the bytes of all inputs and
//! outputs. Operators that pick elements read what they give, not what they pick from; those that look at sizes only read nothing.
//! A runtime that fuses nodes or hands buffers on moves less.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Attr, Def, Graph, Model, Node, NodeId, OpName, Tensor, ValueId,
    infer::{self, Bindings, Call, Fact, GraphFacts, Inferred},
    op,
};

/// Multiply-accumulates of one node from what is known of its inputs and outputs; `None` if that depends on open sizes.
pub type Rule = fn(&Call<'_>, &[Fact]) -> Option<u64>;

/// The rule for operators that read no element.
pub fn none(_: &Call<'_>, _: &[Fact]) -> Option<u64> {
    Some(0)
}

/// The rule for what most operators read, in bytes: all of their inputs.
pub fn all_inputs(call: &Call<'_>, _: &[Fact]) -> Option<u64> {
    (0..call.node.inputs().len()).filter(|&i| call.has(i)).try_fold(0u64, |n, i| n.checked_add(bytes(call.fact(i))?))
}

/// What operators read that pick elements of their first input: as much as they give, and the other inputs.
pub fn picked(call: &Call<'_>, outputs: &[Fact]) -> Option<u64> {
    let others = (1..call.node.inputs().len()).filter(|&i| call.has(i));
    others.map(|i| call.fact(i)).chain(outputs).try_fold(0u64, |n, fact| n.checked_add(bytes(fact)?))
}

/// Bytes of a tensor of fixed size.
fn bytes(fact: &Fact) -> Option<u64> {
    fact.dtype()?.byte_len(fact.count()?)
}

/// What a model costs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelCost {
    /// Nodes, with those of subgraphs and without constants. The call of a local function is one node.
    pub nodes: u64,
    /// Elements of all weights.
    pub parameters: u64,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// Multiply-accumulates of one run, as far as they are known. Saturates.
    pub macs: u64,
    /// What the nodes read and write in one run, if it was counted.
    pub traffic: Option<Traffic>,
    /// Nodes with linear algebra whose MACs depend on open sizes, by name or by their first output, in the order of nodes.
    pub unknown: Vec<String>,
    /// By operator.
    pub operators: BTreeMap<OpName, OpCost>,
}

/// What nodes read and write in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes read, weights included, as far as they are known. Saturates.
    pub read: u64,
    /// Bytes written, as far as they are known. Saturates.
    pub written: u64,
    /// Nodes of which it is open how much they read or write.
    pub unknown: u64,
}

/// What all nodes of one operator cost.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpCost {
    /// How many there are.
    pub nodes: u64,
    /// Their multiply-accumulates, as far as they are known. Saturates.
    pub macs: u64,
    /// How many of them have MACs that depend on open sizes.
    pub unknown: u64,
}

/// Computes the costs of a model whose named sizes are as bound, or open.
pub fn cost(model: &Model, bindings: &Bindings) -> ModelCost {
    let mut counter = Counter::new(model, bindings);
    counter.cost.traffic = Some(Traffic::default());
    counter.count(&infer::infer(model, bindings))
}

/// As [`cost()`], from what was inferred with all sizes open, and without the traffic.
pub fn cost_of(model: &Model, inferred: &Inferred, bindings: &Bindings) -> ModelCost {
    let cost = Counter::new(model, bindings).count(inferred);
    if cost.unknown.is_empty() || bindings.is_empty() {
        return cost;
    }
    // Some sizes follow only from numbers, not from names: those that depend on a comparison, for example.
    Counter::new(model, bindings).count(&infer::infer(model, bindings))
}

/// Multiply-accumulates of one run of a node; `None` if they depend on open sizes. A node without linear algebra has none.
pub fn node_macs(model: &Model, node: &Node, facts: &GraphFacts, bindings: &Bindings) -> Option<u64> {
    Counter::new(model, bindings).macs(node, facts)
}

struct Counter<'a> {
    model: &'a Model,
    functions: BTreeSet<&'a OpName>,
    bindings: &'a Bindings,
    operators: BTreeMap<&'a OpName, OpCost>,
    cost: ModelCost,
}

impl<'a> Counter<'a> {
    fn new(model: &'a Model, bindings: &'a Bindings) -> Counter<'a> {
        let functions = model.functions.iter().map(|f| &f.op).collect();
        Counter { model, functions, bindings, operators: BTreeMap::new(), cost: ModelCost::default() }
    }

    fn count(mut self, inferred: &Inferred) -> ModelCost {
        let model = self.model;
        self.graph(&model.graph, inferred.graph(), Some(1));
        model.graph.walk(&mut |g| self.weights(g));
        for f in &model.functions {
            f.body.walk(&mut |g| self.weights(g));
        }
        self.cost.operators = self.operators.into_iter().map(|(op, cost)| (op.clone(), cost)).collect();
        self.cost
    }

    /// Counts the nodes of a graph that runs `runs` times, or an unknown number of times.
    fn graph(&mut self, g: &'a Graph, facts: &GraphFacts, runs: Option<u64>) {
        for (id, node) in g.nodes().filter(|(_, n)| !n.op.is("Constant")) {
            self.node(g, id, node, facts, runs);
            let inner_runs = runs.and_then(|r| r.checked_mul(self.trips(node, facts)?));
            for (i, body) in node.attrs.graphs().enumerate() {
                if let Some(inner) = facts.subgraph(id, i) {
                    self.graph(body, inner, inner_runs);
                }
            }
        }
    }

    fn node(&mut self, g: &Graph, id: NodeId, node: &'a Node, facts: &GraphFacts, runs: Option<u64>) {
        if let Some(mut traffic) = self.cost.traffic {
            match self.traffic(node, facts).zip(runs) {
                Some(((read, written), runs)) => {
                    traffic.read = traffic.read.saturating_add(read.saturating_mul(runs));
                    traffic.written = traffic.written.saturating_add(written.saturating_mul(runs));
                }
                None => traffic.unknown += 1,
            }
            self.cost.traffic = Some(traffic);
        }
        let once = self.macs(node, facts);
        // Nothing stays nothing, however often it runs.
        let macs = if once == Some(0) { once } else { once.zip(runs).map(|(m, r)| m.saturating_mul(r)) };
        let entry = self.operators.entry(&node.op).or_default();
        entry.nodes += 1;
        self.cost.nodes += 1;
        match macs {
            Some(macs) => {
                entry.macs = entry.macs.saturating_add(macs);
                self.cost.macs = self.cost.macs.saturating_add(macs);
            }
            None => {
                entry.unknown += 1;
                let name = match node.output(0) {
                    Some(v) if node.name.is_empty() => g.name_of(v),
                    None if node.name.is_empty() => id.to_string(),
                    _ => node.name.clone(),
                };
                self.cost.unknown.push(name);
            }
        }
    }

    fn macs(&self, node: &Node, facts: &GraphFacts) -> Option<u64> {
        if self.functions.contains(&node.op) {
            return None;
        }
        let Some(rule) = op::spec(&node.op).and_then(|s| s.macs) else { return Some(0) };
        let macs = |inputs: Vec<&Fact>, outputs: &[Fact]| {
            let call = infer::call(node, &self.model.opsets, inputs, Vec::new())?;
            rule(&call, outputs)
        };
        let fact = |v: &Option<ValueId>| v.map_or(&Fact::UNKNOWN, |v| facts.fact(v));
        let outputs: Vec<Fact> = node.outputs().iter().map(|v| fact(v).clone()).collect();
        // Sizes that are known already need no values for their names.
        macs(node.inputs().iter().map(fact).collect(), &outputs).or_else(|| {
            if self.bindings.is_empty() {
                return None;
            }
            let inputs: Vec<Fact> = node.inputs().iter().map(|v| fact(v).bind(self.bindings)).collect();
            let outputs: Vec<Fact> = outputs.iter().map(|f| f.bind(self.bindings)).collect();
            macs(inputs.iter().collect(), &outputs)
        })
    }

    /// Bytes read and written by a node that runs once.
    fn traffic(&self, node: &Node, facts: &GraphFacts) -> Option<(u64, u64)> {
        let spec = op::spec(&node.op).filter(|_| !self.functions.contains(&node.op))?;
        let fact = |v: &Option<ValueId>| v.map_or(&Fact::UNKNOWN, |v| facts.fact(v));
        let outputs: Vec<Fact> = node.outputs().iter().flatten().map(|&v| facts.fact(v).clone()).collect();
        let inputs = node.inputs().iter().map(fact).collect();
        let call = infer::call(node, &self.model.opsets, inputs, Vec::new())?;
        let written = outputs.iter().try_fold(0u64, |n, fact| n.checked_add(bytes(fact)?))?;
        Some(((spec.reads)(&call, &outputs)?, written))
    }

    fn weights(&mut self, g: &Graph) {
        for (_, value) in g.values() {
            match &value.def {
                Def::Constant(t) | Def::Input { default: Some(t) } => self.weight(t),
                Def::SparseConstant(t) => self.weight(&t.values),
                Def::Input { default: None } | Def::Node { .. } | Def::Captured(_) => {}
            }
        }
        for (_, node) in g.nodes().filter(|(_, n)| n.op.is("Constant")) {
            for (_, attr) in node.attrs.iter() {
                match attr {
                    Attr::Tensor(t) => self.weight(t),
                    Attr::SparseTensor(t) => self.weight(&t.values),
                    _ => {}
                }
            }
        }
    }

    fn weight(&mut self, t: &Tensor) {
        if is_weight(t) {
            self.cost.parameters = self.cost.parameters.saturating_add(t.elements());
            self.cost.weight_bytes = self.cost.weight_bytes.saturating_add(t.byte_len());
        }
    }

    /// How often the subgraphs of a node run.
    fn trips(&self, node: &Node, facts: &GraphFacts) -> Option<u64> {
        match node.op.name.as_str() {
            // A condition may end it earlier.
            "Loop" if node.op.domain.is_empty() => match facts.value(node.input(0)?)? {
                [n] => u64::try_from(n.int()?).ok(),
                _ => None,
            },
            "Scan" if node.op.domain.is_empty() => {
                let last = node.inputs().len().checked_sub(1)?;
                let scanned = usize::try_from(node.attrs.int("num_scan_inputs")?).ok()?.checked_sub(1)?;
                let axes = node.attrs.ints("scan_input_axes").and_then(|a| a.get(scanned)).copied().unwrap_or(0);
                let shape = facts.ty(node.input(last)?)?.shape()?;
                shape.get(infer::axis(axes, shape.len()).ok()?)?.bind(self.bindings).known()
            }
            _ => Some(1),
        }
    }
}

/// True if a constant counts as parameters: all element types do but int64, bool and string.
pub fn is_weight(t: &Tensor) -> bool {
    use crate::DType::{Bool, I64, String};
    !matches!(t.dtype(), I64 | Bool | String)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attrs, infer::testing::Draft};

    #[test]
    fn linear_algebra_is_counted() {
        let mut d = Draft::new(17);
        let x = d.input("x", &["N", "3", "8", "8"]);
        let w = d.weights(&[4, 3, 3, 3]);
        let y = d.node("Conv", &[x, w], Attrs::new());
        let flat = d.node("Flatten", &[y], Attrs::new());
        let v = d.weights(&[144, 10]);
        d.node("Gemm", &[flat, v], Attrs::new());
        let open = cost(&d.model, &Bindings::new());
        assert_eq!((open.macs, open.unknown.len()), (0, 2));
        let two = cost(&d.model, &Bindings::from([("N".into(), 2)]));
        assert_eq!(two.macs, 2 * (4 * 6 * 6 * 27 + 144 * 10));
        assert_eq!((two.nodes, two.parameters, two.weight_bytes), (3, 108 + 1440, 4 * 1548));
        assert_eq!(two.operators[&OpName::onnx("Conv")].macs, 2 * 4 * 6 * 6 * 27);
    }

    #[test]
    fn traffic_is_what_nodes_read_and_write() {
        let mut d = Draft::new(17);
        let ids = d.input_of("ids", crate::DType::I64, &["N", "5"]);
        let table = d.weights(&[1000, 8]);
        let x = d.node("Gather", &[table, ids], Attrs::new());
        let w = d.weights(&[8, 4]);
        d.node("MatMul", &[x, w], Attrs::new());
        d.node("Shape", &[x], Attrs::new());
        let open = cost(&d.model, &Bindings::new());
        assert_eq!(open.traffic, Some(Traffic { read: 0, written: 24, unknown: 2 }));
        let one = cost(&d.model, &Bindings::from([("N".into(), 1)]));
        // Five ids and the rows that they pick; these again, and the weights.
        let read = (5 * 8 + 5 * 8 * 4) + (5 * 8 * 4 + 8 * 4 * 4);
        let written = 5 * 8 * 4 + 5 * 4 * 4 + 3 * 8;
        assert_eq!(one.traffic, Some(Traffic { read, written, unknown: 0 }));
    }

    #[test]
    fn shapes_are_no_parameters_and_overflow_is_no_number() {
        let mut d = Draft::new(17);
        let x = d.input("x", &["4294967296", "4294967296"]);
        let shape = d.ints(&[-1]);
        d.node("Reshape", &[x, shape], Attrs::new());
        d.node("MatMul", &[x, x], Attrs::new());
        let c = cost(&d.model, &Bindings::new());
        assert_eq!((c.parameters, c.macs, c.unknown.len()), (0, 0, 1));
    }

    #[test]
    fn the_body_of_a_loop_counts_as_often_as_it_runs() {
        let looped = |trips: Option<i64>| {
            let mut d = Draft::new(17);
            let x = d.input("x", &["4", "4"]);
            let trips = match trips {
                Some(n) => d.int(n),
                None => d.input_of("n", crate::DType::I64, &[]),
            };
            let mut g = Graph::default();
            let ids: Vec<ValueId> = ["i", "c"].map(|n| g.add_input(n.into(), None, None)).into();
            let x_inside = g.add_value("x".into(), None, Def::Captured(0));
            let y = infer::testing::add(&mut g, "MatMul", &[Some(x_inside), Some(x_inside)], Attrs::new(), &[], 1)[0];
            [ids[1], y].into_iter().for_each(|v| g.add_output(v));
            let attrs = Attrs::new().with("body", Attr::Graph(Box::new(g)));
            infer::testing::add(&mut d.model.graph, "Loop", &[Some(trips), None], attrs, &[x], 1);
            cost(&d.model, &Bindings::new())
        };
        assert_eq!(looped(Some(3)).macs, 3 * 64);
        assert_eq!(looped(None).unknown, ["MatMul"]);
    }
}
