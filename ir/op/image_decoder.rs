//! ImageDecoder.
//!
//! Opsets: 20.
//!
//! Shape rule: uint8, `[height,width,channels]`; a grayscale image has one channel, any other three.

use super::{OpSpec, Traits, sig};
use crate::{DType, Dim, infer::Fact};

pub(super) static SPEC: OpSpec = OpSpec::new("ImageDecoder", &[sig(20, 1, 1)], Traits::OPAQUE, |c| {
    let channels = Dim::Known(if c.attrs().str("pixel_format") == Some("Grayscale") { 1 } else { 3 });
    Ok(vec![Fact::tensor(Some(DType::U8), Some(vec![Dim::Unknown, Dim::Unknown, channels]))])
});
