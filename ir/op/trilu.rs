//! Trilu: the upper or lower triangle.
//!
//! Opsets: 14.
//!
//! Shape rule: the shape stays.

use super::{OpSpec, Traits, sig, unary::same};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why, same_axes,
};

pub(super) static SPEC: OpSpec = OpSpec::new("Trilu", &[sig(14, 1, 2)], Traits::PURE, same).axes(axes);

/// `0[a,b!,c!] -> 0[a,b!,c!]`.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    same_axes(s, &[In(0), Out(0)], 0..rank.saturating_sub(2), Role::Free)
}
