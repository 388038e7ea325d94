//! Factorization: a layer as several smaller ones, chosen by what it does to the outputs.

mod allocate;
mod als;
mod attention;
mod blocks;
mod convolution;
mod cp;
mod decompose;
#[cfg(test)]
mod equivalence;
mod heads;
mod hooi;
mod low_rank;
mod method;
mod projection;
mod rank;
mod rotate;
mod shrink;
mod spatial_svd;
mod split;
mod svd;
#[cfg(test)]
mod testing;
mod tucker;

pub use attention::LowRankAttention;
pub use cp::Cp;
pub use decompose::Decompose;
pub use low_rank::LowRank;
pub use rank::{Allocation, Factorization};
pub use spatial_svd::SpatialSvd;
pub use tucker::Tucker;
