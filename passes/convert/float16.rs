//! Compute in float16, with float32 at the model's inputs and outputs and wherever float16 would fail.
//!
//! Before     y = Conv (x, w);  z = Exp (y)                                 float32
//! After      c = Conv (Cast (x), w);  y = Cast (c);  z = Exp (y)           c and w float16
//! When       the operator takes float16 at the model's opset
//! Refuses    operators without a float16 form, functions, and unknown operators · nodes with subgraphs · operators that
//!            grow (squares, exponentials, sums of them), until an operator brings the result back into range · readers
//!            of a constant beyond ±65504 or of a single one below 2⁻²⁵ · sizes and positions that are computed from
//!            integers for an exact reader · what `keep` lists · what comes close to the limit on calibration samples
//! Numerics   Lossy: 11 bits of precision instead of 24. Masks of -3.4e38 before Softmax become -32768.
//! Reference  IEEE 754-2019, binary16; Micikevicius et al., Mixed Precision Training, ICLR 2018
//!
//! Without calibration samples only weights and constants are checked for range; that activations stay inside it is for
//! the verification afterwards to find. Fuse normalizations first: LayerNormalization computes its statistics in float32
//! by definition, while its parts cost two casts each time.

mod literals;
mod measure;
mod rewrite;
mod select;
mod support;

use planish_ir::{Graph, GraphPath, Model};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Context, Pass, PassError, Shape, Skip, Transform};
use select::Selection;

/// Configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Float16 {
    /// Nodes that stay in float32, by name, or all of an operator, such as `Softmax` or `com.example::Op`.
    pub keep: Vec<String>,
}

/// `Cast` names its target by number from this opset on.
const MIN_OPSET: i64 = 6;

impl Pass for Float16 {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for Float16 {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        if model.opset() < MIN_OPSET {
            let opset = model.opset();
            return Err(PassError::Precondition(format!(
                "the model has opset {opset}, and float16 needs {MIN_OPSET} or later; run `raise-opset` first"
            )));
        }
        let mut changes = Changes::default();
        let literals = literals::literals(&model.graph);
        let wide = match measure::wide(model, cx, &literals.masked) {
            Ok(wide) => wide,
            Err(e) => {
                changes.notes.push(format!("the ranges of activations are not known, only those of constants: {e}"));
                Default::default()
            }
        };
        let selection = Selection::new(model, &self.keep, &literals, &wide);
        let converted = model.graph.nodes().filter(|(id, _)| selection.becomes_half(*id)).count();
        if converted == 0 {
            return Ok(changes);
        }
        changes.patches.push((GraphPath::main(), rewrite::rewrite(&model.graph, &selection, &literals)?));
        for (id, reason) in selection.stays_full() {
            changes.skipped.push((GraphPath::main(), id, Skip::because(reason.to_owned())));
        }
        changes.notes.push(format!("{converted} nodes in float16, {} stay in float32", changes.skipped.len()));
        if !wide.is_empty() {
            let limit = measure::limit();
            changes.notes.push(format!("{} values exceed {limit} on the samples and stay in float32", wide.len()));
        }
        changes.notes.extend(self.without_match(&model.graph));
        Ok(changes)
    }
}

impl Float16 {
    /// A note for each entry of `keep` that the model does not have: most likely a misspelling.
    fn without_match(&self, graph: &Graph) -> Vec<String> {
        let matches = |k: &str| graph.nodes().any(|(_, n)| n.name == k || n.op.to_string() == k);
        let unmatched = self.keep.iter().filter(|k| !matches(k));
        unmatched.map(|k| format!("`keep` lists {k:?}, which is neither a node nor an operator of the model")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_with, refusals};

    #[test]
    fn casts_stand_at_the_interface_and_are_shared() {
        insta::assert_snapshot!(check::<Float16>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,4] x) => (float[N,4] y, float[N,4] z)
            <float[4,4] w, float[4] b> {
                y = MatMul (x, w)
                a = Add (y, b)
                r = Relu (a)
                z = MatMul (r, x)
            }"#
        ), @"");
    }

    #[test]
    fn squares_stay_in_float32_until_their_root() {
        insta::assert_snapshot!(check::<Float16>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,4] x) => (float[N,4] y)
            <float[4,4] w, float two = {2.0}, float eps = {1e-12}> {
                a = MatMul (x, w)
                m = ReduceMean <axes = [1]> (a)
                d = Sub (a, m)
                s = Pow (d, two)
                v = ReduceMean <axes = [1]> (s)
                e = Add (v, eps)
                r = Sqrt (e)
                n = Div (d, r)
                y = MatMul (n, w)
            }"#
        ), @"");
    }

    #[test]
    fn a_clipped_norm_is_divided_by_in_float32() {
        insta::assert_snapshot!(check::<Float16>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,4] x) => (float[N,4] y)
            <float[4,4] w, float eps = {1e-12}> {
                a = MatMul (x, w)
                n = ReduceL2 <axes = [1]> (a)
                c = Clip (n, eps)
                y = Div (a, c)
            }"#
        ), @"");
    }

    #[test]
    fn the_large_number_of_a_mask_is_brought_into_range() {
        insta::assert_snapshot!(check::<Float16>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,4] x, int64[N,4] mask) => (float[N,4] y)
            <float[4,4] w, float one = {1.0}, float low = {-3.4028234663852886e38}> {
                a = MatMul (x, w)
                m = Cast <to = 1> (mask)
                i = Sub (one, m)
                b = Mul (i, low)
                s = Add (a, b)
                p = Softmax (s)
                y = MatMul (p, w)
            }"#
        ), @"");
    }

    #[test]
    fn a_large_number_that_is_no_mask_stays() {
        insta::assert_snapshot!(check::<Float16>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,4] x) => (float[N,4] y)
            <float[4,4] w, float large = {1e6}> {
                a = MatMul (x, w)
                l = Mul (a, large)
                t = Tanh (l)
                y = MatMul (t, w)
            }"#
        ), @"");
    }

    #[test]
    fn positions_are_counted_in_float32() {
        insta::assert_snapshot!(check::<Float16>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,4] x, int64[N,1] position) => (float[N,4] y)
            <float[4,4] w, float[1,4] frequency> {
                p = Cast <to = 1> (position)
                t = Mul (p, frequency)
                c = Cos (t)
                a = MatMul (x, w)
                y = Mul (a, c)
            }"#
        ), @"");
    }

    #[test]
    fn sizes_and_element_types_follow_the_slot() {
        insta::assert_snapshot!(check::<Float16>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[1,4,H,W] x) => (float[1,4,H2,W2] y, int64[4] s)
            <float[4,4,1,1] w, float[4] scales = {1.0, 1.0, 2.0, 2.0}> {
                c = Conv (x, w)
                r = Resize (c, , scales)
                s = Shape (r)
                zero = ConstantOfShape <value = float[1] {0.5}> (s)
                y = Add (r, zero)
            }"#
        ), @"");
    }

    #[test]
    fn captures_and_unknown_operators_read_float32() {
        insta::assert_snapshot!(check::<Float16>(
            r#"<ir_version: 8, opset_import: ["" : 17, "com.example" : 1]>
            g (float[N,4] x, bool c) => (float[N,4] y)
            <float[4,4] w> {
                a = MatMul (x, w)
                o = com.example.Op (a)
                i = If (c) <then_branch = t () => (float[N,4] p) { p = Relu (a) },
                            else_branch = e () => (float[N,4] q) { q = Identity (a) }>
                s = Add (i, a)
                y = MatMul (s, w)
            }"#
        ), @"");
    }

    #[test]
    fn the_user_may_keep_nodes() {
        let pass = Float16 { keep: vec!["Softmax".into(), "last".into()] };
        insta::assert_snapshot!(check_with(pass,
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,4] x) => (float[N,4] y)
            <float[4,4] w> {
                a = MatMul (x, w)
                p = Softmax (a)
                b = MatMul (p, w)
                [last] y = MatMul (b, w)
            }"#
        ), @"");
    }

    #[test]
    fn nothing_is_cast_for_nothing() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,4] x) => (float[4,N] y) { t = Transpose (x)
              y = Identity (t) }"#;
        assert!(refusals::<Float16>(text).is_empty());
    }
}
