//! Factorization: a layer as several smaller ones, chosen by what it does to the outputs.

mod allocate;
mod als;
mod blocks;
mod convolution;
mod cp;
mod decompose;
#[cfg(test)]
mod equivalence;
mod hooi;
mod attention;
mod heads;
mod low_rank;
mod method;
mod projection;
mod rank;
mod spatial_svd;
mod rotate;
mod shrink;
mod split;
mod svd;
#[cfg(test)]
mod testing;
mod tucker;

pub use cp::Cp;
pub use decompose::Decompose;
pub use attention::LowRankAttention;
pub use low_rank::LowRank;
pub use rank::{Allocation, Factorization};
pub use spatial_svd::SpatialSvd;
pub use tucker::Tucker;
