//! What a normalization makes of the outputs of a layer.
//!
//! Where a layer's result is added to a residual and normalized at once, as in transformers with the normalization behind each block, an
//! error of an output counts as much as the normalization scales it: its scale belongs to the measure of what a layer loses.

use planish_ir::{Model, ValueId, infer, infer::Inferred};

use crate::Linear;

/// Additions between a layer and a normalization: of a bias, and of the residual.
const ADDITIONS: usize = 3;

/// The scale of the LayerNormalization that alone reads what a layer computes, one for each output, if nothing but additions come between.
pub(super) fn normalized_by(model: &Model, facts: &Inferred, linear: &Linear, outputs: usize) -> Option<Vec<f64>> {
    let graph = &model.graph;
    let mut value: ValueId = graph.node(linear.node)?.output(0)?;
    // Outputs have to be on the last axis, which is the one that is normalized.
    let rank = facts.shape(value)?.len();
    if linear.channel_axis != -1 || linear.groups() != 1 {
        return None;
    }
    for _ in 0..=ADDITIONS {
        let (_, node, _) = graph.only_user(value)?;
        if node.op.is("LayerNormalization") && node.input(0) == Some(value) {
            let axis = infer::axis(node.attrs.int("axis").unwrap_or(-1), facts.shape(value)?.len()).ok()?;
            let scale = graph.constant(node.input(1)?)?.to_f64().ok()?;
            return (axis + 1 == rank && scale.len() == outputs && scale.iter().all(|s| s.is_finite()))
                .then_some(scale);
        }
        let next = node.output(0).filter(|_| node.op.is("Add"))?;
        if facts.shape(next).is_none_or(|s| s.len() != rank || s.last() != facts.shape(value).and_then(|s| s.last())) {
            return None;
        }
        value = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;

    #[test]
    fn a_scale_is_found_behind_bias_and_residual_where_nothing_else_reads_the_sum() {
        let scale = |behind: &str| {
            let model = parse(&format!(
                r#"<ir_version: 8, opset_import: ["" : 17]>
                g (float[N,S,2] x) => (float[N,S,2] y) <float[2,2] w, float[2] b, float[2] s = {{2.0, 0.5}}> {{
                    a = MatMul (x, w)
                    c = Add (b, a)
                    {behind}
                }}"#
            ));
            let facts = infer::infer(&model, &infer::Bindings::new());
            let node = model.graph.producer(model.graph.value_named("a").unwrap()).unwrap().0;
            normalized_by(&model, &facts, &Linear::of(&model.graph, node).unwrap(), 2)
        };
        assert_eq!(scale("d = Add (x, c) y = LayerNormalization (d, s)"), Some(vec![2.0, 0.5]));
        assert_eq!(scale("d = Add (x, c) n = LayerNormalization (d, s) y = Add (n, d)"), None);
        assert_eq!(scale("d = Relu (c) y = LayerNormalization (d, s)"), None);
        assert_eq!(scale("d = Add (x, c) y = LayerNormalization <axis = 1> (d, s)"), None);
    }
}
