//! Factorization: a layer as several smaller ones, chosen by what it does to the outputs.

mod allocate;
mod attention;
mod heads;
mod low_rank;
mod method;
mod rank;
mod rotate;
mod shrink;
mod split;
mod svd;

pub use attention::LowRankAttention;
pub use low_rank::LowRank;
pub use rank::{Allocation, Factorization};
