//! EyeLike.
//!
//! Opsets: 9, 22.
//!
//! Shape rule: the shape stays; the type is `dtype`, or the input's.

use super::{OpSpec, Traits, sig};
use crate::infer::Fact;

pub(super) static SPEC: OpSpec = OpSpec::new("EyeLike", &[sig(9, 1, 1)], Traits::PURE, |c| {
    let dtype = c.dtype_attr("dtype").or_else(|| c.dtype(0));
    Ok(vec![Fact::tensor(dtype, c.shape(0).map(<[_]>::to_vec))])
});
