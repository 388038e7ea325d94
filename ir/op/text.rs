//! Strings: RegexFullMatch, StringConcat, StringNormalizer, StringSplit, TfIdfVectorizer.
//!
//! Opsets: StringNormalizer 10; TfIdfVectorizer 9; the others 20.
//!
//! Shape rules: RegexFullMatch keeps the shape, StringConcat broadcasts. StringNormalizer may drop words. StringSplit adds an
//! axis with as many parts as the longest string has, and counts them. TfIdfVectorizer replaces the last axis by the
//! counted n-grams.

use super::{OpSpec, Traits, sig};
use crate::{
    DType, Dim,
    infer::{Call, Fact, Outcome, shape::broadcast},
};

pub(super) static REGEX: OpSpec = OpSpec::new("RegexFullMatch", &[sig(20, 1, 1)], Traits::OPAQUE, |c| {
    Ok(vec![Fact::tensor(Some(DType::Bool), c.shape(0).map(<[_]>::to_vec))])
});
pub(super) static CONCAT: OpSpec = OpSpec::new("StringConcat", &[sig(20, 2, 2)], Traits::OPAQUE, |c| {
    let shape = match (c.shape(0), c.shape(1)) {
        (Some(a), Some(b)) => Some(broadcast(a, b)?),
        _ => None,
    };
    Ok(vec![Fact::tensor(Some(DType::String), shape)])
});
pub(super) static NORMALIZER: OpSpec = OpSpec::new("StringNormalizer", &[sig(10, 1, 1)], Traits::OPAQUE, |c| {
    let shape = c.shape(0).map(|s| match s.split_last() {
        Some((_, rest)) => rest.iter().cloned().chain([Dim::Unknown]).collect(),
        None => Vec::new(),
    });
    Ok(vec![Fact::tensor(Some(DType::String), shape)])
});
pub(super) static SPLIT: OpSpec = OpSpec::new("StringSplit", &[sig(20, 1, 1).outputs(2, 2)], Traits::OPAQUE, |c| {
    let counts = c.shape(0).map(<[_]>::to_vec);
    let parts = counts.clone().map(|s| s.into_iter().chain([Dim::Unknown]).collect());
    Ok(vec![Fact::tensor(Some(DType::String), parts), Fact::tensor(Some(DType::I64), counts)])
});
pub(super) static TF_IDF: OpSpec = OpSpec::new("TfIdfVectorizer", &[sig(9, 1, 1)], Traits::OPAQUE, tf_idf);

fn tf_idf(call: &Call<'_>) -> Outcome {
    let largest = call.attrs().ints("ngram_indexes").and_then(|i| i.iter().max()).and_then(|&n| u64::try_from(n).ok());
    let width = largest.and_then(|n| n.checked_add(1)).map_or(Dim::Unknown, Dim::Known);
    let shape = call.shape(0).map(|s| match s.split_last() {
        Some((_, rest)) => rest.iter().cloned().chain([width]).collect(),
        None => Vec::new(),
    });
    Ok(vec![Fact::tensor(Some(DType::F32), shape)])
}
