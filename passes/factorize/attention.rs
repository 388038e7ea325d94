//! Make the heads of attention smaller: queries and keys, values and what reads them, each in the basis in which least is lost.
//!
//! Before     scores = MatMul (q, k)                     q is N x 12 x S x 64, k is N x 12 x 64 x S
//! After      scores = MatMul (q', k')                   q' is N x 12 x S x 40, k' is N x 12 x 40 x S; the weights of both are smaller
//! When       products of heads that layers with constant weights make, in any form of views: separate or packed, legacy or dynamo
//! Refuses    what does more with channels than to move them, such as rotary embeddings and normalized queries · keys that several queries
//!            share · weights that others read too · fused attention operators · without calibration data
//! Numerics   Lossy: the report gives the error of the outputs on samples that the fits, of which it takes the better, have not seen
//! Reference  Eckart, Young: The approximation of one matrix by another of lower rank, Psychometrika 1936
//!
//! The basis of each head is changed, which keeps what the model computes, such that its last channels matter least to the scores or to
//! the layer behind; then these channels go, from all heads of a layer alike, as the views ask for. How many is decided for all layers
//! together, by what it does to the model's outputs. There is no break-even: both sides become smaller. The scale of the scores stays.

use planish_ir::{GraphPath, Model, axes::classes};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    rank::{Allocation, Factorization},
    shrink::Shrinking,
};
use crate::{
    Changes, Context, Pass, PassError, Shape, Skip, Transform,
    calibration::bindings,
    heads::{Asked, Kind, units},
    reconstruct::with_own_vectors,
};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LowRankAttention {
    /// Share of the multiply-accumulates to keep, of the layers and products that heads are made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macs: Option<f64>,
    /// Share of the parameters to keep, of the layers that heads are made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<f64>,
    /// Share of the channels of every head to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Share of the variance of scores, and of what is behind values, to keep in every layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy: Option<f64>,
    /// Make queries and keys smaller.
    pub query_key: bool,
    /// Make values smaller.
    pub value_output: bool,
    /// How a budget (`macs`, `params`) is spread over the layers.
    pub allocation: Allocation,
    /// Refit what is behind, layer after layer, to what the original computes, if that is better on samples held out.
    pub refit: bool,
    /// Heads keep a multiple of this many channels, if they have enough.
    pub round_to: u64,
    /// Weights that stay as they are, by name.
    pub protect: Vec<String>,
    /// Samples on which the effect of each layer is measured.
    pub probes: u64,
}

impl Default for LowRankAttention {
    fn default() -> LowRankAttention {
        LowRankAttention {
            macs: None,
            params: None,
            ratio: None,
            energy: None,
            query_key: true,
            value_output: true,
            allocation: Allocation::Global,
            refit: true,
            round_to: 8,
            protect: Vec::new(),
            probes: 32,
        }
    }
}

impl Pass for LowRankAttention {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl LowRankAttention {
    pub(super) fn settings(&self) -> Factorization {
        Factorization {
            macs: self.macs,
            params: self.params,
            ratio: self.ratio,
            energy: self.energy,
            round_to: self.round_to,
            ..Factorization::default()
        }
    }
}

impl Transform for LowRankAttention {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        with_own_vectors(model, cx, |model, cx| self.shrink(model, cx))
    }
}

impl LowRankAttention {
    fn shrink(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let rule = self.settings().rule()?;
        let calibration = cx.calibrated()?;
        let mut changes = Changes::default();
        let sizes = bindings(model, &*calibration.samples.get(0)?);
        let classes = classes(model, cx.facts);
        let wanted = |kind: Kind| match kind {
            Kind::QueryKey { .. } => self.query_key,
            Kind::ValueOutput => self.value_output,
        };
        let asked = Asked { wanted: &wanted, protected: &self.protect };
        let (units, refused) = units(model, cx, &classes, &sizes, &asked);
        changes.skipped.extend(refused.into_iter().map(|(id, why)| (GraphPath::main(), id, Skip::because(why))));
        if units.is_empty() {
            changes.notes.push("there is no attention whose heads can be made smaller".to_owned());
            return Ok(changes);
        }
        let shrinking = Shrinking::new(self, model, cx, calibration, &classes, &units)?;
        shrinking.run(rule, &mut changes)?;
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::check_calibrated, *};
    use crate::{
        Target, Tensors,
        testing::{drawn, refusals_calibrated},
    };

    fn half() -> LowRankAttention {
        LowRankAttention { ratio: Some(0.5), ..LowRankAttention::default() }
    }

    fn samples() -> Vec<Tensors> {
        (0..4).map(|i| Tensors::from([("x".to_owned(), drawn(&format!("x{i}"), &[2, 5, 16]))])).collect()
    }

    fn model(body: &str) -> String {
        format!("<ir_version: 8, opset_import: [\"\" : 17]> g (float[N,S,16] x) => (float[N,S,16] y) {body}")
    }

    fn separate(queries: &str) -> String {
        model(&format!(
            "<float[16,16] wq, float[16] bq, float[16,16] wk, float[16,16] wv, float[16] bv, float[16,16] wo, float[8] odd,
              int64[4] split = {{0, 0, 2, 8}}, int64[3] merge = {{0, 0, 16}}, float scale = {{0.35}}> {{
                q = MatMul (x, wq)
                qb = Add (q, bq)
                k = MatMul (x, wk)
                v = MatMul (x, wv)
                vb = Add (bv, v)
                q1 = Reshape (qb, split)
                k1 = Reshape (k, split)
                v1 = Reshape (vb, split)
                q2 = Transpose <perm = [0, 2, 1, 3]> (q1)
                {queries}
                k2 = Transpose <perm = [0, 2, 3, 1]> (k1)
                v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
                s = MatMul (q3, k2)
                ss = Mul (s, scale)
                p = Softmax <axis = -1> (ss)
                o = MatMul (p, v2)
                o1 = Transpose <perm = [0, 2, 1, 3]> (o)
                o2 = Reshape (o1, merge)
                y = MatMul (o2, wo)
            }}"
        ))
    }

    fn packed(parts: &str) -> String {
        model(&format!(
            "<float[16,48] w, float[48] b, float[16,16] wo, int64[5] split = {{0, 0, 3, 2, 8}}, int64[3] merge = {{0, 0, 16}},
              int64 i0 = {{0}}, int64 i1 = {{1}}, int64 i2 = {{2}}, int64[3] ones = {{1, 1, 1}}, int64[1] first = {{0}}> {{
                a = MatMul (x, w)
                c = Add (a, b)
                r = Reshape (c, split)
                t = Transpose <perm = [2, 0, 3, 1, 4]> (r)
                {parts}
                kt = Transpose <perm = [0, 1, 3, 2]> (k)
                s = MatMul (q, kt)
                p = Softmax <axis = -1> (s)
                o = MatMul (p, v)
                o1 = Transpose <perm = [0, 2, 1, 3]> (o)
                o2 = Reshape (o1, merge)
                y = MatMul (o2, wo)
            }}"
        ))
    }

    #[test]
    fn separate_layers() {
        let text = separate("q3 = Identity (q2)");
        insta::assert_snapshot!(check_calibrated(half(), Target::Generic, &samples(), &text));
    }

    #[test]
    fn one_layer_for_all_is_cut_for_all() {
        let legacy = "q0, k0, v0 = Split <axis = 0> (t, ones)
                q = Squeeze (q0, first)
                k = Squeeze (k0, first)
                v = Squeeze (v0, first)";
        let dynamo = "q = Gather <axis = 0> (t, i0)
                k = Gather <axis = 0> (t, i1)
                v = Gather <axis = 0> (t, i2)";
        insta::assert_snapshot!(check_calibrated(half(), Target::Generic, &samples(), &packed(legacy)));
        let after = check_calibrated(half(), Target::Generic, &samples(), &packed(dynamo));
        assert!(after.contains("float[16,24] w"), "{after}");
    }

    #[test]
    fn what_does_more_than_move_channels_is_refused() {
        let alone = LowRankAttention { value_output: false, ..half() };
        let reasons = |text: &str| refusals_calibrated(alone.clone(), Target::Generic, &samples(), text);
        insta::assert_debug_snapshot!(reasons(&separate("q3 = Mul (q2, odd)")));
        insta::assert_debug_snapshot!(reasons(&separate("q3 = Relu (q2)")));
        let shared = separate("q3 = Identity (q2)").replace("float[N,S,16] y)", "float[N,S,16] y, float[N,2,S,8] q2)");
        insta::assert_debug_snapshot!(reasons(&shared));
    }
}
