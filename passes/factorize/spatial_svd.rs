//! Split convolutions in two: along one axis of the window, then along the others.
//!
//! Before     y = Conv <strides, pads> (x, w, b)                       w is 256 x 256 x 3 x 3
//! After      h = Conv <strides = [2, 1], pads = [1, 0, 1, 0]> (x, v);  y = Conv <strides = [1, 2], pads = [0, 1, 0, 1]> (h, w', b)
//!            v is 96 x 256 x 3 x 1, w' is 256 x 96 x 1 x 3
//! When       convolutions of the main graph along two axes or more, with windows along two of them, strided, dilated and in groups, with
//!            constant weights, whose factors are faster by the cost model
//! Refuses    depthwise convolutions · windows along one axis (`low-rank` splits them) · weights that are quantized already, or that a
//!            subgraph reads
//! Numerics   Lossy: the report gives the error of each layer, and with calibration data that of the model's outputs on samples that the
//!            fit has not seen
//! Reference  Jaderberg, Vedaldi, Zisserman: Speeding up convolutional neural networks with low rank expansions, BMVC 2014
//!
//! Without calibration data this is the SVD of `(inputs, first axis) x (outputs, other axes)`. With it, inputs are whitened by their
//! second moments, and the second convolution is the best behind the first one; not for convolutions in groups.

use super::{
    convolution::Convolution,
    method::{Layer, Method, Scene},
    projection::Projection,
};
use crate::Skip;
use planish_ir::{NodeId, ValueId};

splitting_pass!(SpatialSvd, Axes);

/// Along the first axis, then along the others.
pub(super) struct Axes;

impl Method for Axes {
    fn layer<'a>(&self, scene: &Scene<'a>, weight: ValueId, nodes: &[NodeId]) -> Result<Box<dyn Layer + 'a>, Skip> {
        let convolution = Convolution::of(scene, weight, nodes)?;
        let first = convolution.window.iter().position(|&k| k > 1);
        let others = |at: usize| convolution.window.iter().skip(at + 1).any(|&k| k > 1);
        match first.filter(|&at| others(at)) {
            // Axes of size 1 in front may have strides, and go along.
            Some(at) => Ok(Box::new(Projection { convolution, lead: at + 1, maps_outputs: false })),
            None => Err(Skip::because("its window lies along one axis; `low-rank` splits it")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rank::Factorization;
    use super::{super::testing::check_with, *};
    use crate::{Target, testing::refusals_for};

    fn at_rank(rank: u64) -> SpatialSvd {
        SpatialSvd(Factorization { rank: Some(rank), ..Factorization::default() })
    }

    fn model(weight: &str, (rows, columns): (u64, u64), attributes: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> g (float[1,64,32,32] x) => (float[1,64,{rows},{columns}] y) <float[{weight}] w, float[64] b> {{
                [conv] y = Conv <{attributes}> (x, w, b)
            }}"
        )
    }

    #[test]
    fn each_axis_keeps_its_strides_and_pads() {
        let text = model("64,64,3,5", (16, 31), "strides = [2, 1], dilations = [1, 2], pads = [1, 4, 0, 3]");
        insta::assert_snapshot!(check_with(at_rank(16), &text));
    }

    #[test]
    fn groups_and_pads_by_size() {
        let text = model(
            "64,32,3,3",
            (32, 16),
            "group = 2, auto_pad = \"SAME_LOWER\", strides = [1, 2], kernel_shape = [3, 3]",
        );
        insta::assert_snapshot!(check_with(at_rank(8), &text));
    }

    #[test]
    fn one_axis_is_for_another_pass() {
        let reasons = refusals_for(at_rank(8), Target::Generic, &model("64,64,3,1", (32, 32), "pads = [1, 0, 1, 0]"));
        assert_eq!(reasons, ["its window lies along one axis; `low-rank` splits it"]);
    }
}
