//! BitCast: the same bits as another type of the same width.
//!
//! Opsets: 26.
//!
//! Shape rule: the shape stays.

use super::{OpSpec, Traits, sig};
use crate::infer::Fact;

pub(super) static SPEC: OpSpec = OpSpec::new("BitCast", &[sig(26, 1, 1)], Traits::ELEMENTWISE, |c| {
    Ok(vec![Fact::tensor(c.dtype_attr("to"), c.shape(0).map(<[_]>::to_vec))])
});
