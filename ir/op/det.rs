//! Det.
//!
//! Opsets: 11, 22.
//!
//! Shape rule: the last two axes vanish.

use super::{OpSpec, Traits, sig};

pub(super) static SPEC: OpSpec = OpSpec::new("Det", &[sig(11, 1, 1)], Traits::ROUNDING, |c| {
    let shape = match c.shape(0) {
        Some([batch @ .., _, _]) => Some(batch.to_vec()),
        Some(_) => return Err("its input is no matrix".into()),
        None => None,
    };
    Ok(vec![c.like(0, shape)])
});
