//! Copying a graph into another one.

use crate::{
    Def, Graph, Patch, PatchError, Ref, ValueId,
    patch::{Added, apply::Run},
};

/// A graph whose nodes and constants become part of the one that is patched.
#[derive(Clone, Debug)]
pub(crate) struct Inlined {
    pub(crate) body: Graph,
    pub(crate) prefix: String,
    pub(crate) inputs: Vec<Option<Ref>>,
    pub(crate) captures: Vec<ValueId>,
}

impl Inlined {
    /// Fails if something that is needed would be missing: only an input slot of a node can be left out.
    pub(super) fn check(&self) -> Result<(), PatchError> {
        let absent = |v: ValueId| Err(PatchError::Absent(self.body.name_of(v)));
        for (id, v) in self.body.values() {
            match v.def() {
                Def::Captured(k) if self.captures.get(*k as usize).is_none() => return absent(id),
                _ => {}
            }
        }
        let left_out = |v: &ValueId| self.inputs.get(self.input(*v)?).copied().flatten().is_none().then_some(*v);
        let captured = self.body.nodes().flat_map(|(_, n)| n.captures());
        let needed = self.body.outputs().iter().chain(captured);
        needed.filter_map(left_out).next().map_or(Ok(()), absent)
    }

    /// Which input of the body a value is.
    fn input(&self, v: ValueId) -> Option<usize> {
        matches!(self.body.value(v)?.def(), Def::Input { .. })
            .then(|| self.body.inputs().iter().position(|&i| i == v))
            .flatten()
    }

    fn name(&self, name: &str) -> String {
        match (self.prefix.as_str(), name) {
            ("", _) | (_, "") => name.to_owned(),
            (prefix, _) => format!("{prefix}/{name}"),
        }
    }
}

impl Patch {
    /// The value that an inlined graph hands through, if this is an output that its nodes do not make.
    pub(super) fn pass_through(&self, mut r: Ref) -> Ref {
        // An inlined graph refers only to what was added before it, so this ends; the bound is for patches that do not.
        for _ in 0..=self.added.len() {
            let Ref::Output(i, slot) = r else { break };
            let Some(Added::Graph(inlined)) = self.added.get(i) else { break };
            let Some(&v) = inlined.body.outputs().get(slot) else { break };
            let next = match inlined.body.value(v).map(crate::Value::def) {
                Some(Def::Captured(k)) => inlined.captures.get(*k as usize).map(|&v| Ref::Value(v)),
                Some(Def::Input { .. }) => inlined.input(v).and_then(|i| inlined.inputs.get(i).copied().flatten()),
                // Two outputs that are one value.
                _ => inlined.body.outputs().iter().position(|&o| o == v).map(|slot| Ref::Output(i, slot)),
            };
            match next.filter(|&next| next != r) {
                Some(next) => r = next,
                None => break,
            }
        }
        r
    }

    /// True if something that the patch adds reads the value.
    pub(super) fn reads(&self, value: ValueId) -> bool {
        self.added.iter().any(|added| {
            let (inputs, captures) = match added {
                Added::Node(n) => (&n.inputs, &n.captures),
                Added::Graph(i) => (&i.inputs, &i.captures),
            };
            inputs.contains(&Some(Ref::Value(value))) || captures.contains(&value)
        })
    }
}

impl Run<'_> {
    /// Copies a graph; returns what its outputs are now.
    pub(super) fn inline(&mut self, inlined: Inlined) -> Vec<Option<ValueId>> {
        let body = &inlined.body;
        let bound = body.values().next_back().map_or(0, |(id, _)| id.index() + 1);
        let mut new: Vec<Option<ValueId>> = vec![None; bound];
        for (i, v) in body.inputs().iter().enumerate() {
            let given = inlined.inputs.get(i).copied().flatten();
            new[v.index()] = given.and_then(|r| self.resolve(r));
        }
        for (id, v) in body.values() {
            if let Def::Captured(k) = v.def() {
                new[id.index()] = inlined.captures.get(*k as usize).copied();
            } else if !matches!(v.def(), Def::Input { .. }) {
                let name = self.graph.fresh_name(&inlined.name(&v.name));
                // The producer is entered by `add_node`.
                let copy = self.graph.add_value(name, v.ty.clone(), v.def.clone());
                if let Some(copy) = self.graph.value_mut(copy) {
                    (copy.inferred, copy.doc, copy.metadata) = (v.inferred, v.doc.clone(), v.metadata.clone());
                }
                new[id.index()] = Some(copy);
            }
        }
        let at = |v: ValueId| new.get(v.index()).copied().flatten();
        // A verified graph has no cycle.
        for node in body.topological_order().unwrap_or_default().into_iter().filter_map(|id| body.node(id)) {
            let mut copy = node.clone();
            copy.name = inlined.name(&node.name);
            copy.inputs.iter_mut().for_each(|v| *v = v.and_then(at));
            copy.trim_inputs();
            copy.captures = node.captures.iter().filter_map(|&v| at(v)).collect();
            copy.outputs.iter_mut().for_each(|v| *v = v.and_then(at));
            let id = self.graph.add_node(copy);
            self.applied.added.push(id);
        }
        body.outputs().iter().map(|&v| at(v)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Numerics, text};

    fn graph(text: &str) -> Graph {
        let header = r#"<ir_version: 8, opset_import: ["" : 17]>"#;
        text::parse(&format!("{header} {text}")).unwrap_or_else(|e| panic!("{e}")).graph
    }

    #[test]
    fn what_a_body_hands_through_is_checked_as_what_it_stands_for() {
        let mut g = graph("g (float x) => (float y) { y = Relu (x) }");
        let (x, y) = (g.inputs()[0], g.outputs()[0]);
        let mut patch = Patch::new(Numerics::Exact, "");
        let outs =
            patch.inline(graph("b (float p) => (float p) { q = Neg (p) }"), "", vec![Some(x.into())], Vec::new());
        patch.replace(y, outs[0]);
        assert!(matches!(patch.apply(&mut g), Err(PatchError::Interface { .. })));
    }

    #[test]
    fn one_value_cannot_have_two_names() {
        let mut g = graph("g (float x) => (float y, float z) { y = Relu (x) z = Neg (x) }");
        let mut patch = Patch::new(Numerics::Exact, "");
        let body = graph("b (float p) => (float q, float q) { q = Neg (p) }");
        let outs = patch.inline(body, "", vec![Some(g.inputs()[0].into())], Vec::new());
        patch.replace(g.outputs()[0], outs[0]);
        patch.replace(g.outputs()[1], outs[1]);
        assert!(matches!(patch.apply(&mut g), Err(PatchError::Interface { .. })));
    }

    #[test]
    fn only_input_slots_can_be_left_out() {
        let mut g = graph("g (float x) => (float y) { y = Relu (x) }");
        for (body, fine) in [
            ("b (float p, float q) => (float r) { r = Clip (p, q) }", true),
            ("b (float p, float q) => (float q) { r = Clip (p, q) }", false),
            (
                "b (bool p, float q) => (float r) { r = If (p) <then_branch = t () => (float s) { s = Neg (q) },
                else_branch = e () => (float s) { s = Abs (q) }> }",
                false,
            ),
        ] {
            let mut patch = Patch::new(Numerics::Exact, "");
            patch.inline(graph(body), "a", vec![Some(g.inputs()[0].into())], Vec::new());
            assert_eq!(patch.apply(&mut g).is_ok(), fine, "{body}");
        }
        assert!(g.value_named("a/r").is_some());
    }
}
