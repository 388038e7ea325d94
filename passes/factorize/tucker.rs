//! Split convolutions in three: a projection of the inputs, a core with the window, a map to the outputs (Tucker-2).
//!
//! Before     y = Conv <strides, pads> (x, w, b)                       w is 256 x 256 x 3 x 3
//! After      h = Conv (x, v);  k = Conv <strides, pads> (h, c);  y = Conv (k, w', b)       v is 96 x 256 x 1 x 1, c is 96 x 96 x 3 x 3,
//!            w' is 256 x 96 x 1 x 1; two of the three if inputs or outputs keep their rank
//! When       convolutions of the main graph, along any number of axes, strided, dilated and in groups, with constant weights, whose
//!            factors are faster by the cost model
//! Refuses    depthwise convolutions, which have nothing between channels · windows of one place (`low-rank` splits them) · weights that
//!            are quantized already, or that a subgraph reads
//! Numerics   Lossy: the report gives the error of each layer, and with calibration data that of the model's outputs on samples that the
//!            fit has not seen
//! Reference  Kim et al.: Compression of deep convolutional neural networks for fast and low power mobile applications, ICLR 2016; De
//!            Lathauwer et al.: On the best rank-1 and rank-(R1,R2,…,RN) approximation of higher-order tensors, SIMAX 2000
//!
//! Without calibration data the factors are those of HOOI: each in turn is the best for the other. With it, inputs are whitened by their
//! second moments, and core and outputs are the best behind the projection (reduced-rank regression); not for convolutions in groups,
//! which are split by their weights.

use super::{
    convolution::Convolution,
    method::{Layer, Method, Scene},
    projection::Projection,
};
use crate::Skip;
use planish_ir::{NodeId, ValueId};

splitting_pass!(Tucker, Cores);

/// Projection, core, map.
pub(super) struct Cores;

impl Method for Cores {
    fn layer<'a>(&self, scene: &Scene<'a>, weight: ValueId, nodes: &[NodeId]) -> Result<Box<dyn Layer + 'a>, Skip> {
        let convolution = Convolution::of(scene, weight, nodes)?;
        if convolution.taps() == 1 {
            return Err(Skip::because("its window is of one place; `low-rank` splits it"));
        }
        Ok(Box::new(Projection { convolution, lead: 0, maps_outputs: true }))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::rank::Factorization,
        super::testing::{check_calibrated, check_with},
        *,
    };
    use crate::{
        Target, Tensors,
        testing::{drawn, refusals_for},
    };

    fn at_rank(rank: u64) -> Tucker {
        Tucker(Factorization { rank: Some(rank), ..Factorization::default() })
    }

    fn model(body: &str) -> String {
        format!("<ir_version: 8, opset_import: [\"\" : 17]> {body}")
    }

    #[test]
    fn the_core_keeps_the_window() {
        insta::assert_snapshot!(check_with(
            at_rank(8),
            &model(
                "g (float[1,64,16,16] x) => (float[1,64,8,6] y) <float[64,64,3,3] w, float[64] b> {
                [conv] y = Conv <kernel_shape = [3, 3], strides = [2, 2], dilations = [1, 2], pads = [1, 0, 1, 0]> (x, w, b)
            }"
            )
        ));
    }

    #[test]
    fn one_axis_three_axes_and_groups() {
        insta::assert_snapshot!(check_with(
            at_rank(8),
            &model(
                "g (float[1,64,400] x) => (float[1,64,400] y) <float[64,32,5] w> {
                y = Conv <group = 2, auto_pad = \"SAME_UPPER\"> (x, w)
            }"
            )
        ));
        insta::assert_snapshot!(check_with(
            at_rank(8),
            &model("g (float[1,32,8,8,8] x) => (float[1,32,6,6,6] y) <float[32,32,3,3,3] w> { y = Conv (x, w) }")
        ));
    }

    #[test]
    fn with_samples_the_bias_takes_up_the_mean() {
        let samples: Vec<Tensors> =
            (0..4).map(|i| Tensors::from([("x".to_owned(), drawn(&format!("x{i}"), &[1, 32, 12, 12]))])).collect();
        insta::assert_snapshot!(check_calibrated(
            at_rank(4),
            Target::Generic,
            &samples,
            &model("g (float[1,32,12,12] x) => (float[1,32,10,10] y) <float[32,32,3,3] w> { y = Conv (x, w) }")
        ));
    }

    #[test]
    fn what_is_left_alone() {
        let reasons = |weights: &str, size: u64, node: &str| {
            let body = format!("g (float[1,64,16,16] x) => (float[1,64,{size},{size}] y) <{weights}> {{ y = {node} }}");
            refusals_for(at_rank(8), Target::Generic, &model(&body))
        };
        let depthwise = reasons("float[64,1,3,3] w", 14, "Conv <group = 64> (x, w)");
        assert_eq!(
            depthwise,
            ["a depthwise convolution has one channel in a group, and nothing to compress between channels"]
        );
        assert_eq!(
            reasons("float[64,64,1,1] w", 16, "Conv (x, w)"),
            ["its window is of one place; `low-rank` splits it"]
        );
        // A rank that is too large to be faster.
        let large = Tucker(Factorization { ratio: Some(1.0), ..Factorization::default() });
        let body = "g (float[1,64,16,16] x) => (float[1,64,14,14] y) <float[64,64,3,3] w> { y = Conv (x, w) }";
        assert_eq!(refusals_for(large, Target::Generic, &model(body)), [""; 0]);
    }
}
