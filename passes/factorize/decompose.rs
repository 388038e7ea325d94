//! Split layers in the way that loses least for what it saves: into two matrices, along the axes of the window, or around a core.
//!
//! Before     y = Conv (x, w, b);  z = MatMul (y, u)
//! After      the first as `tucker`, `spatial-svd` or `low-rank` would, the second as `low-rank` would, or as it was
//! When       what one of these passes takes
//! Refuses    what all of them refuse
//! Numerics   Lossy: the report gives the error of each layer, and with calibration data that of the model's outputs on samples that the
//!            fit has not seen
//! Reference  those of `low-rank`, `tucker` and `spatial-svd`; the choice between them: Idelbayev, Carreira-Perpiñán: Low-rank compression
//!            of neural nets: learning the rank of each layer, CVPR 2020
//!
//! `cp` is not among them: its stages are depthwise, for which the cost model, which counts all MACs alike, has no measure.

use super::{low_rank::Matrices, spatial_svd::Axes, tucker::Cores};

splitting_pass!(Decompose, Matrices, Axes, Cores);

#[cfg(test)]
mod tests {
    use super::{
        super::{rank::Factorization, testing::check_calibrated},
        *,
    };
    use crate::{Target, Tensors, testing::drawn};

    #[test]
    fn each_layer_in_its_way() {
        let decompose = Decompose(Factorization { rank: Some(8), refit: false, ..Factorization::default() });
        let samples: Vec<Tensors> =
            (0..4).map(|i| [("x".to_owned(), drawn(&format!("x{i}"), &[1, 64, 16, 16]))].into()).collect();
        insta::assert_snapshot!(check_calibrated(
            decompose,
            Target::Generic,
            &samples,
            "<ir_version: 8, opset_import: [\"\" : 17]> g (float[1,64,16,16] x) => (float[1,256,16,16] z) <float[64,64,3,3] w, float[256,64,1,1] u> {
                y = Conv <pads = [1, 1, 1, 1]> (x, w)
                z = Conv (y, u)
            }"
        ));
    }
}
