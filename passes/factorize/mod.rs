//! Factorization: a layer as several smaller ones, chosen by what it does to the outputs.

/// A pass that splits layers by some methods, configured as all of them are.
macro_rules! splitting_pass {
    ($name:ident, $($method:expr),+) => {
        /// Configuration.
        #[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub super::rank::Factorization);

        impl crate::Pass for $name {
            fn shape(&self) -> crate::Shape<'_> {
                crate::Shape::Transform(self)
            }
        }

        impl crate::Transform for $name {
            fn transform(
                &self,
                model: &planish_ir::Model,
                cx: &crate::Context<'_>,
            ) -> Result<crate::Changes, crate::PassError> {
                super::split::factorize(model, cx, &self.0, &[$(&$method),+])
            }
        }
    };
}

mod allocate;
mod als;
mod attention;
mod blocks;
mod chains;
mod convolution;
mod cp;
mod decompose;
mod digits;
#[cfg(test)]
mod equivalence;
mod hooi;
mod in_turn;
mod least;
mod lookups;
mod low_rank;
mod method;
mod nested;
mod projection;
mod rank;
mod search;
mod shared_input;
mod shrink;
mod sites;
mod spatial_svd;
mod split;
pub(crate) mod svd;
mod tensor_train;
#[cfg(test)]
mod testing;
mod train;
mod tucker;

pub use attention::LowRankAttention;
pub use cp::Cp;
pub use decompose::Decompose;
pub use low_rank::LowRank;
pub use rank::{Allocation, Factorization};
pub use spatial_svd::SpatialSvd;
pub use tensor_train::TensorTrain;
pub use tucker::Tucker;
