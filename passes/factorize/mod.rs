//! Factorization: a layer as several smaller ones, chosen by what it does to the outputs.

mod allocate;
mod low_rank;
mod method;
mod rank;
mod split;
mod svd;

pub use low_rank::LowRank;
pub use rank::{Allocation, Factorization};
