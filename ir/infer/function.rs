//! Calls of local functions: their bodies, looked at once for each call.

use std::{borrow::Cow, collections::BTreeMap};

use super::{Fact, engine::Engine, shape};
use crate::{Attr, Attrs, Function, Graph, Node, NodeId, Opsets, Type, ValueId};

/// Nodes in bodies of functions that are looked at in one model. Functions that call functions multiply, so that a small
/// hostile file could ask for any amount of work.
pub(super) const MAX_NODES: usize = 1 << 16;
/// Deepest nesting of calls that is followed.
const MAX_DEPTH: usize = 16;

/// What a graph gets from the function that it is in, if it is in one.
pub(super) struct Frame<'a> {
    pub(super) opsets: &'a Opsets,
    /// What the attributes of the calling node are, or their defaults.
    attrs: Option<BTreeMap<&'a str, &'a Attr>>,
}

impl<'a> Frame<'a> {
    /// That of the main graph.
    pub(super) const fn main(opsets: &'a Opsets) -> Frame<'a> {
        Frame { opsets, attrs: None }
    }

    /// The type that the file declares for a value, without names. Nothing in a function: its calls may differ.
    pub(super) fn declared(&self, g: &Graph, value: ValueId) -> Option<Type> {
        if self.attrs.is_some() { None } else { g.ty(value).map(shape::without_names) }
    }

    /// The node with what the call gives it. Attributes that the call leaves out are absent.
    pub(super) fn bind<'n>(&self, node: &'n Node) -> Cow<'n, Node> {
        let (Some(given), true) = (&self.attrs, node.attrs.iter().any(|(_, a)| matches!(a, Attr::Ref { .. }))) else {
            return Cow::Borrowed(node);
        };
        let attrs = node.attrs.iter().filter_map(|(name, a)| {
            let value = match a {
                Attr::Ref { name, .. } => (*given.get(name.as_str())?).clone(),
                _ => a.clone(),
            };
            Some((name.to_owned(), value))
        });
        let attrs: Attrs = attrs.collect();
        Cow::Owned(Node { attrs, ..node.clone() })
    }

    /// That of the body of a function, for a call in this frame.
    fn of_call<'b>(&'b self, function: &'b Function, node: &'b Node) -> Frame<'b> {
        let mut attrs: BTreeMap<&str, &Attr> = function.defaults.iter().collect();
        for (name, a) in node.attrs.iter() {
            let value = match a {
                Attr::Ref { name, .. } => self.attrs.as_ref().and_then(|given| given.get(name.as_str()).copied()),
                _ => Some(a),
            };
            if let Some(value) = value {
                attrs.insert(name, value);
            }
        }
        Frame { opsets: &function.opsets, attrs: Some(attrs) }
    }
}

impl<'a> Engine<'a> {
    /// Facts of the outputs of a call; none for a function that calls itself, which no valid model has.
    pub(super) fn function(
        &mut self,
        frame: &Frame<'_>,
        function: &'a Function,
        id: NodeId,
        node: &Node,
        inputs: Vec<&Fact>,
    ) -> Vec<Fact> {
        let nodes = function.body.node_count();
        if self.calls.len() >= MAX_DEPTH || self.calls.contains(&&function.op) || nodes > self.budget {
            return Vec::new();
        }
        self.budget -= nodes;
        self.calls.push(&function.op);
        let inputs: Vec<Fact> = inputs.into_iter().cloned().collect();
        let outputs = self.within(&format!("{id}/"), |engine, scope| {
            let facts = engine.graph(&frame.of_call(function, node), &function.body, &inputs, &[]);
            function.body.outputs().iter().map(|&v| facts.fact(v).outside(scope)).collect()
        });
        self.calls.pop();
        outputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        OpName,
        infer::{
            Bindings, infer,
            testing::{Draft, add},
        },
    };

    /// A function of one input: a node, whose attribute `axis` is the call's `at`.
    fn function(name: &str, op: &str) -> Function {
        let mut body = Graph::default();
        let x = body.add_input("x".into(), None, None);
        let attrs = Attrs::new().with("axis", Attr::Ref { name: "at".into(), kind: 2 });
        let y = add(&mut body, op, &[Some(x)], attrs, &[], 1)[0];
        body.add_output(y);
        let opsets = [(String::new(), 17), ("local".into(), 1)].into();
        Function { op: OpName::new("local", name), opsets, body, ..Function::default() }
    }

    #[test]
    fn a_body_is_inferred_for_each_call() {
        let mut d = Draft::new(17);
        d.model.functions = vec![function("flat", "Flatten"), function("twice", "local::flat")];
        d.model.functions[0].defaults = Attrs::new().with("at", 1);
        let x = d.input("x", &["N", "3", "H"]);
        let y = d.node("local::flat", &[x], Attrs::new());
        assert_eq!(d.ty(y), "float[N,3*H]");
        let y = d.node("local::flat", &[x], Attrs::new().with("at", 2));
        assert_eq!(d.ty(y), "float[3*N,H]");
        let z = d.node("local::flat", &[y], Attrs::new().with("at", 0));
        assert_eq!(d.ty(z), "float[1,3*H*N]");
    }

    #[test]
    fn functions_call_functions_but_not_themselves() {
        let mut d = Draft::new(17);
        let mut outer = function("outer", "local::flat");
        outer.defaults = Attrs::new().with("at", 2);
        d.model.functions = vec![function("flat", "Flatten"), outer, function("self", "local::self")];
        d.model.functions[0].defaults = Attrs::new().with("axis", 1).with("at", 1);
        let x = d.input("x", &["N", "3", "H"]);
        let y = d.node("local::outer", &[x], Attrs::new());
        // What the caller gives is called `axis`, so that the default of `at` holds.
        assert_eq!(d.ty(y), "float[N,3*H]");
        let y = d.node("local::self", &[x], Attrs::new());
        assert_eq!(d.ty(y), "?");
    }

    #[test]
    fn sizes_that_arise_in_two_calls_differ() {
        let mut d = Draft::new(17);
        d.model.functions = vec![function("found", "NonZero")];
        let x = d.input("x", &["N", "3"]);
        let (a, b) = (d.node("local::found", &[x], Attrs::new()), d.node("local::found", &[x], Attrs::new()));
        assert_eq!(d.ty(a), "int64[2,?]");
        let inferred = infer(&d.model, &Bindings::new());
        assert!(!inferred.shape(a).unwrap()[1].same(&inferred.shape(b).unwrap()[1]));
    }

    #[test]
    fn calls_that_multiply_end() {
        let mut d = Draft::new(17);
        for i in 0..40 {
            let mut f = function(&format!("f{i}"), &format!("local::f{}", i + 1));
            let x = f.body.inputs()[0];
            add(&mut f.body, &format!("local::f{}", i + 1), &[Some(x)], Attrs::new(), &[], 1);
            d.model.functions.push(f);
        }
        let x = d.input("x", &["N"]);
        let y = d.node("local::f0", &[x], Attrs::new());
        assert_eq!(d.ty(y), "?");
    }
}
