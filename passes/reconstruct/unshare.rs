//! Vectors that several nodes read, as one for each.
//!
//! Equal biases are often stored once, above all those that are all zero. That says nothing about the channels which they belong to, and
//! must not tie layers to each other that have nothing else in common, nor keep a layer from having a bias that makes up for something.

use planish_ir::{GraphPath, Model, Numerics, Operand, Patch, Use, infer};

use crate::{Changes, Context, PassError};

/// What a pass does to a model whose vectors have one reader each. Unless it does nothing, the patch that gives them one comes first.
pub(crate) fn with_own_vectors(
    model: &Model,
    cx: &Context<'_>,
    pass: impl Fn(&Model, &Context<'_>) -> Result<Changes, PassError>,
) -> Result<Changes, PassError> {
    let Some(patch) = unshare(model) else { return pass(model, cx) };
    let mut own = model.clone();
    let applied = own.apply(&GraphPath::main(), patch.clone());
    applied.map_err(|e| PassError::Precondition(e.to_string()))?;
    let facts = infer::infer(&own, &infer::Bindings::new());
    let mut changes = pass(&own, &Context { facts: &facts, ..*cx })?;
    if !changes.patches.is_empty() {
        changes.patches.insert(0, (GraphPath::main(), patch));
    }
    Ok(changes)
}

/// Gives each reader of a float vector of the main graph one of its own. None if there is nothing to do.
pub fn unshare(model: &Model) -> Option<Patch> {
    let graph = model.graph_at(&GraphPath::main())?;
    let mut patch = Patch::new(Numerics::Exact, "vectors that several nodes read are stored for each");
    for (id, value) in graph.values() {
        let Some(tensor) = value.constant().filter(|t| t.dtype().is_float() && is_vector(t.dims())) else { continue };
        let readers = graph.users(id).filter_map(|u| match u {
            Use::Node(node, Operand::Input(slot)) => Some((node, usize::try_from(slot).ok()?)),
            _ => None,
        });
        for (node, slot) in readers.skip(1) {
            let own = patch.constant(format!("{}_own", value.name()), tensor.clone());
            patch.set_input(node, slot, Some(own));
        }
    }
    (!patch.is_empty()).then_some(patch)
}

/// True if at most one size is not 1, and one is.
fn is_vector(dims: &[u64]) -> bool {
    dims.iter().filter(|&&d| d != 1).count() == 1
}

#[cfg(test)]
mod tests {
    use planish_ir::text;

    use super::*;
    use crate::testing::parse;

    #[test]
    fn biases_are_stored_for_each_layer_and_weights_and_scalars_are_not() {
        let mut model = parse(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4] b = {0.0, 0.0, 0.0, 0.0}, float s = {2.0}, float[1] t = {3.0}> {
                c = Gemm (x, w, b)
                d = Mul (c, s)
                e = Gemm (d, w, b)
                f = Mul (e, s)
                g = Add (f, t)
                y = Mul (g, t)
            }"#,
        );
        let patch = unshare(&model).unwrap();
        model.apply(&GraphPath::main(), patch).unwrap();
        let text = text::print(&model);
        assert!(text.contains("c = Gemm (x, w, b)") && text.contains("e = Gemm (d, w, b_own)"), "{text}");
        assert!(text.contains("f = Mul (e, s)") && text.contains("y = Mul (g, t)"), "{text}");
        assert!(unshare(&model).is_none());
    }
}
